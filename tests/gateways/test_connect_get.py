"""Connect over GET: the query, its bounds, and what plain tools may leave out."""

from __future__ import annotations

import base64
import gzip
from urllib.parse import quote

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from insula.errors import CallerError, LimitError
from insula.gateways.connect_get import MAX_INFLATED, read_query
from tests.gateways.conftest import Shop

MESSAGE = b'{"name":"a+b/c?d&e=f g"}'


async def test_a_read_only_method_over_get(shop: Shop) -> None:
    answer = await shop.http.get(
        "/shop.Echo/getThing", params={"connect": "v1", "encoding": "json", "message": MESSAGE.decode()}
    )
    assert (answer.status_code, answer.json()["name"]) == (200, "a+b/c?d&e=f g")
    assert answer.headers["x-content-type-options"] == "nosniff"
    bare = await shop.http.head("/shop.Echo/getThing", params={"message": '{"name":"x"}'})
    assert (bare.status_code, bare.content) == (200, b"")


async def test_plain_tools_may_leave_things_out(shop: Shop) -> None:
    assert (await shop.http.get("/shop.Echo/listAll")).json() == {"response": ["a", "b"]}
    answer = await shop.http.get("/shop.Echo/getThing", params={"message": '{"name":"x"}'})
    assert answer.json() == {"name": "x"}
    assert (await shop.http.get("/shop.Echo/getThing")).json() == {"name": ""}
    answer = await shop.http.get("/shop.Echo/getThing", params={"message": "nonsense"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


@pytest.mark.parametrize(("name", "encode"), [("gzip", gzip.compress), ("br", brotli.compress)])
async def test_a_compressed_message(shop: Shop, name: str, encode: object) -> None:
    assert callable(encode)
    coded = base64.urlsafe_b64encode(encode(MESSAGE)).decode()
    answer = await shop.http.get("/shop.Echo/getThing", params={"message": coded, "base64": "1", "compression": name})
    assert (answer.status_code, answer.json()["name"]) == (200, "a+b/c?d&e=f g")
    wrong = base64.urlsafe_b64encode(encode(b"{}")[:-1]).decode()
    answer = await shop.http.get("/shop.Echo/getThing", params={"message": wrong, "base64": "1", "compression": name})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


async def test_what_changes_something_is_no_get(shop: Shop) -> None:
    answer = await shop.http.get("/shop.Echo/echo", params={"message": '{"name":"x"}'})
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
    assert shop.echo.calls == []


async def test_an_unknown_encoding_is_a_415(shop: Shop) -> None:
    assert (await shop.http.get("/shop.Echo/getThing?encoding=xml&message=1")).status_code == 415
    assert (await shop.http.get("/shop.Echo/getThing?connect=v1&message=1")).status_code == 415


def _query(message: bytes, **rest: str) -> bytes:
    return "&".join(["message=" + quote(message), *(f"{name}={value}" for name, value in rest.items())]).encode()


def _read(query: bytes, limit: int) -> bytes:
    return read_query(query).inflated(limit)


@pytest.mark.parametrize("encode", [base64.urlsafe_b64encode, base64.b64encode])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("message", [b"", b"\xfb\xef\xff", b"a", b"ab", b"abc"])
def test_base64_in_either_alphabet_with_or_without_padding(encode: object, padded: bool, message: bytes) -> None:
    assert callable(encode)
    text = encode(message) if padded else encode(message).rstrip(b"=")
    query = read_query(_query(text, base64="1", encoding="proto"))
    assert (query.proto, query.inflated(100)) == (True, message)


@pytest.mark.parametrize(
    ("name", "encode"), [("gzip", gzip.compress), ("br", brotli.compress), ("zstd", zstandard.compress)]
)
def test_compressed_messages_are_bounded(name: str, encode: object) -> None:
    assert callable(encode)

    def query(size: int) -> bytes:
        return _query(base64.urlsafe_b64encode(encode(b"x" * size)), base64="1", compression=name)

    assert _read(query(1000), 1000) == b"x" * 1000
    with pytest.raises(LimitError):
        _read(query(1001), 1000)
    with pytest.raises(LimitError):
        _read(query(MAX_INFLATED + 1), 1 << 30)


@pytest.mark.parametrize(
    "query",
    [
        b"connect=v2&encoding=json&message=1",
        b"connect=&encoding=json&message=1",
        b"connect=v1&encoding=json",
        b"message=1&message=2",
        b"m%65ssage=1&message=2",
        b"message=1&base64=2",
        b"message=!&base64=1",
        b"message=a&base64=1",
        b"message=1&compression=rot13",
        b"message=notgzip&compression=gzip",
        b"&".join(b"a=%d" % n for n in range(40)),
    ],
)
def test_a_wrong_query_is_the_callers_mistake(query: bytes) -> None:
    with pytest.raises(CallerError):
        _read(query, 1000)


@given(st.binary(max_size=200))
def test_any_query_is_a_message_or_refused(query: bytes) -> None:
    try:
        assert len(_read(query, 1000)) <= 1000
    except (CallerError, LimitError):
        pass


@given(st.binary(max_size=300))
def test_every_message_comes_back(message: bytes) -> None:
    assert _read(_query(message), 1000) == message


def test_brotli_is_inflated_in_a_thread() -> None:
    """64 bytes of it take 10 ms, and are then refused."""
    assert read_query(b"message=a&compression=br").slow
    assert read_query(b"message=a&compression=gzip,br").slow
    assert not read_query(b"message=a&compression=gzip").slow
