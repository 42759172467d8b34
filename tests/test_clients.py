"""What a Connect client sees of a real guest, over a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from connectrpc.client import ConnectClient, ResponseMetadata
from connectrpc.code import Code
from connectrpc.codec import proto_binary_codec, proto_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from insula.build.project import build
from tests.build.guests import members, write_project
from tests.running import running
from tests.toolchains import needs

IDL = """
@okra(namespace: "shop", version: "v1")
service Till { pay(input: Order): Order }
type Order { name: String! }
"""
SOURCE = """
#include "service.gen.h"

insula_status Till_pay(const Order *input, Order *output) {
    insula_context_set_header(insula_text("x-tried"), insula_text("twice"));
    insula_context_set_trailer(insula_text("x-cost"), input->name);
    if (insula_equal(input->name, insula_text("nothing"))) return insula_fail(INSULA_NOT_FOUND, "no such order");
    output->name = input->name;
    return INSULA_OK;
}
"""


@pytest.fixture(scope="module")
def till(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("c")
    files = {"service.okra.gql": IDL, "service.c": SOURCE}
    folder = write_project(
        tmp_path_factory.mktemp("till"),
        files,
        name="Till",
        language="c",
        source="service.c",
        host_apis=["okra.context"],
    )
    return build(folder).path


@pytest.mark.parametrize("codec", ["json", "binary"])
async def test_metadata_of_an_answer_and_of_an_error(till: Path, codec: str, tmp_path: Path) -> None:
    descriptors = (await asyncio.to_thread(members, till))["service.pb.desc"]
    registry = FileDescriptorSet.from_binary(descriptors).to_registry()
    order = registry.message("shop.Order")
    assert order is not None
    method: MethodInfo[Any, Any] = MethodInfo(
        name="pay",
        service_name="shop.Till",
        input=order.type,
        output=order.type,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )
    codecs: dict[str, Any] = {"json": proto_json_codec(registry), "binary": proto_binary_codec()}
    async with running(tmp_path) as live:
        assert (await live.deploy(till)).status_code == 200
        async with ConnectClient(live.url, codec=codecs[codec]) as client:
            with ResponseMetadata() as metadata:
                assert await client.execute_unary(request=order.type(name="book"), method=method)
            assert (metadata.headers["x-tried"], metadata.trailers["x-cost"]) == ("twice", "book")
            with ResponseMetadata() as metadata, pytest.raises(ConnectError) as raised:
                await client.execute_unary(request=order.type(name="nothing"), method=method)
            assert (raised.value.code, raised.value.message) == (Code.NOT_FOUND, "no such order")
            assert (metadata.headers["x-tried"], metadata.trailers["x-cost"]) == ("twice", "nothing")
