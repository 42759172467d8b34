"""The Connect client that people use, over JSON, binary and GET, with every compression, against a real listener."""

from __future__ import annotations

from typing import Any

import pytest
from connectrpc.client import ConnectClient, ResponseMetadata
from connectrpc.code import Code as ClientCode
from connectrpc.codec import Codec, proto_binary_codec, proto_json_codec
from connectrpc.compression.brotli import BrotliCompression
from connectrpc.compression.gzip import GzipCompression
from connectrpc.compression.zstd import ZstdCompression
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from insula.errors import Code, InsulaError
from insula.schema.descriptors import to_descriptor_set
from tests.gateways.conftest import SCHEMA, Shop

REGISTRY = FileDescriptorSet.from_binary(to_descriptor_set(SCHEMA)).to_registry()


def _message(name: str) -> Any:
    found = REGISTRY.message(name)
    assert found is not None
    return found.type


Thing = _message("shop.Thing")


def _method(name: str) -> MethodInfo[Any, Any]:
    return MethodInfo(
        name=name,
        service_name="shop.Echo",
        input=Thing,
        output=Thing,
        idempotency_level=IdempotencyLevel.NO_SIDE_EFFECTS,
        stream_type=StreamType.UNARY,
    )


CODECS: dict[str, Codec[Any, Any]] = {"json": proto_json_codec(REGISTRY), "binary": proto_binary_codec()}
COMPRESSIONS = {"none": None, "gzip": GzipCompression(), "br": BrotliCompression(), "zstd": ZstdCompression()}


@pytest.fixture(params=list(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec[Any, Any]:
    return CODECS[request.param]


@pytest.mark.parametrize("compression", list(COMPRESSIONS))
@pytest.mark.parametrize("use_get", [False, True], ids=["post", "get"])
async def test_every_way_to_say_the_same(shop: Shop, codec: Codec[Any, Any], compression: str, use_get: bool) -> None:
    used = COMPRESSIONS[compression]
    async with ConnectClient(
        shop.url, codec=codec, send_compression=used, accept_compression=[used] if used else []
    ) as client:
        sent = Thing(name="ä" * 1500, count=-7, size=9007199254740993, data=b"\xff\x00", tags=["a", "b"])
        with ResponseMetadata() as metadata:
            got = await client.execute_unary(
                request=sent, method=_method("getThing"), headers={"x-tenant": "one"}, use_get=use_get, timeout_ms=3000
            )
        assert got == sent
        assert dict(shop.echo.calls[0].metadata)["x-tenant"] == "one"
        assert shop.echo.calls[0].remaining() <= 3.0
        assert metadata.headers["vary"] == "accept-encoding"
        empty = await client.execute_unary(request=Thing(), method=_method("getThing"), use_get=use_get)
        assert empty == Thing()


@pytest.mark.parametrize("code", list(Code))
async def test_every_code_arrives(shop: Shop, codec: Codec[Any, Any], code: Code) -> None:
    shop.echo.error = InsulaError("no way", code=code, reason="because")
    shop.echo.error.trailers = (("x-cost", "7"),)
    async with ConnectClient(shop.url, codec=codec) as client:
        with ResponseMetadata() as metadata, pytest.raises(ConnectError) as raised:
            await client.execute_unary(request=Thing(name="x"), method=_method("echo"))
    assert raised.value.code.value == code.value
    assert raised.value.message == "no way"
    assert metadata.trailers["x-cost"] == "7"
    assert len(raised.value.details) == 1


async def test_metadata_both_ways(shop: Shop, codec: Codec[Any, Any]) -> None:
    shop.echo.headers = (("x-one", "1"), ("x-one", "2"))
    shop.echo.trailers = (("x-cost", "7"),)
    async with ConnectClient(shop.url, codec=codec) as client:
        with ResponseMetadata() as metadata:
            await client.execute_unary(request=Thing(name="x"), method=_method("echo"))
    assert metadata.headers.getall("x-one") == ["1", "2"]
    assert metadata.trailers["x-cost"] == "7"


async def test_an_unknown_method_and_service(shop: Shop, codec: Codec[Any, Any]) -> None:
    async with ConnectClient(shop.url, codec=codec) as client:
        with pytest.raises(ConnectError) as raised:
            await client.execute_unary(request=Thing(), method=_method("nothing"))
    assert raised.value.code is ClientCode.UNIMPLEMENTED
    assert "deployed" in raised.value.message


async def test_below_connect(shop: Shop, codec: Codec[Any, Any]) -> None:
    async with ConnectClient(f"{shop.url}/connect", codec=codec) as client:
        assert await client.execute_unary(request=Thing(name="x"), method=_method("echo")) == Thing(name="x")


async def test_binary_that_is_none(shop: Shop) -> None:
    for body in (b"\xff", b"\x08", b"\x0a\x05x"):
        answer = await shop.post(body, headers={"content-type": "application/proto"})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
        assert answer.headers["content-type"] == "application/json"
