"""What a deploy would change, in words that an operator decides by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from insula.deployments import changes
from insula.kinds.okra import OkraKind, deployable
from insula.packages.config import read_config
from insula.packages.deployable import Deployable
from insula.packages.describe import INLINE_MB, large_memory
from insula.packages.package import Package
from insula.published import Published
from insula.schema.idl import parse_idl
from insula.services.limits import InForce, in_force
from insula.wasm import engine

IDL = """
@okra(namespace: "shop", version: "v1")
service Orders { place(input: Order): Order  getOrder(input: Order): Order }
type Order { id: ID! }
"""


def package(idl: str = IDL, digest: str = "1", wasm_digest: str = "w", **config: Any) -> Deployable:
    whole = {"name": "Orders", "version": "1.0.0", **config}
    return deployable(
        Package(
            digest=digest,
            folder=Path(),
            config=read_config(msgspec.json.encode(whole)),
            schema=parse_idl(idl),
            wasm=Path(),
            wasm_digest=wasm_digest,
            descriptor=b"",
        )
    )


class Side(NamedTuple):
    deployable: Deployable
    published: Published
    limits: InForce


def side(package: Deployable, tables: Mapping[str, Mapping[str, int]] | None = None) -> Side:
    return Side(
        package,
        OkraKind().published(package),
        in_force(package, tables or {}, body_bytes=4 << 20, body_values=65_536, request_timeout_ms=60_000),
    )


def describe(
    new: Deployable,
    old: Deployable | None,
    tables: Mapping[str, Mapping[str, int]] | None = None,
    before: Mapping[str, Mapping[str, int]] | None = None,
) -> list[str]:
    return changes.describe(side(new, tables), side(old, before) if old else None)


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
        *large_memory(128),
    ]


def test_a_difference_that_means_nothing_is_told_as_that() -> None:
    assert describe(package(digest="2"), package()) == ["the package is different, what it does and asks for is not"]


def test_what_is_in_force_is_told_and_where_it_comes_from() -> None:
    tables = {"shop.Orders": {"memory_mb": 16, "body_values": 100}, "shop.Other": {"mailbox": 1}}
    assert describe(package(limits={"memory_mb": 256}), None, tables) == [
        "a new service with 2 methods",
        'limit memory_mb is 16 by [limits.services."shop.Orders"] memory_mb; okra.json has 256',
        'limit body_values is 100 by [limits.services."shop.Orders"] body_values',
    ]


def test_a_package_that_asks_for_another_limit_than_it_gets() -> None:
    """The operator's memory_mb stands above both: nothing becomes different."""
    tables = {"shop.Orders": {"memory_mb": 16}}
    told = describe(package(digest="2", limits={"memory_mb": 32}), package(), tables, tables)
    assert told[0] == "the package is different, what it does and asks for is not"
    assert told[1].endswith("okra.json has 32")
    assert describe(package(), package(), tables)[:2] == [
        "the same package: the service is started afresh",
        "limit memory_mb 64 becomes 16",
    ]


def test_much_memory_is_told_from_where_the_engine_runs_it_elsewhere() -> None:
    assert INLINE_MB << 20 == engine._LARGE
    assert describe(package(limits={"memory_mb": 64}), None) == ["a new service with 2 methods"]
    (_, told) = describe(package(limits={"memory_mb": 65}), None)
    assert "worker threads alone" in told
