"""What a deploy would change, in words that an operator decides by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from insula.deployments.changes import describe
from insula.packages.config import read_config
from insula.packages.package import Package
from insula.schema.idl import parse_idl

IDL = """
@okra(namespace: "shop", version: "v1")
service Orders { place(input: Order): Order  getOrder(input: Order): Order }
type Order { id: ID! }
"""


def package(idl: str = IDL, digest: str = "1", wasm_digest: str = "w", **config: Any) -> Package:
    whole = {"name": "Orders", "version": "1.0.0", **config}
    return Package(
        digest=digest,
        folder=Path(),
        config=read_config(msgspec.json.encode(whole)),
        schema=parse_idl(idl),
        wasm=Path(),
        wasm_digest=wasm_digest,
        descriptor=b"",
    )


def test_a_new_service() -> None:
    assert describe(package(), None) == ["a new service with 2 methods"]


def test_the_same_package() -> None:
    assert describe(package(), package()) == ["the same package: the service is started afresh"]


def test_every_kind_of_difference_is_told() -> None:
    other = IDL.replace("place(input: Order): Order", "cancel(input: Order): Boolean").replace(
        "getOrder(input: Order): Order", "getOrder(input: Order): [Order]"
    )
    told = describe(
        package(
            other.replace("id: ID!", "id: ID! note: String"),
            digest="2",
            wasm_digest="x",
            version="2.0.0",
            host_apis=["okra.log"],
            grants={"okra.log": {}},
            limits={"memory_mb": 128},
        ),
        package(host_apis=["okra.state"]),
    )
    assert told == [
        "version 1.0.0 becomes 2.0.0",
        "method cancel is new",
        "method place is gone: its callers will get unimplemented",
        "method getOrder changes from (Order) -> Order to (Order) -> [Order]",
        "type Order has other fields",
        "asks for okra.log",
        "no longer asks for okra.state",
        "what it asks of its host APIs is different",
        "limit memory_mb 64 becomes 128",
        "the code is different",
    ]


def test_a_difference_that_means_nothing_is_told_as_that() -> None:
    assert describe(package(digest="2"), package()) == ["the package is different, what it does and asks for is not"]
