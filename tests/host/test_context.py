from __future__ import annotations

import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.calls import Principal
from insula.edge.answers import checked
from insula.edge.exchange import Head, Response, Route
from insula.edge.plain import Plain
from insula.fields import MAX_BYTES, MAX_PAIRS
from insula.gateways.metadata import from_guest
from insula.host.context import ContextCapability
from insula.host.scope import Phase
from tests.host.conftest import ID, Host, scope


async def test_get() -> None:
    call = scope(
        within=5.0,
        principal=Principal("ada", ("clerk",)),
        metadata=(("x-a", "1"), ("x-a", "2")),
        traceparent="00-aa-bb-01",
        idempotency_key="k",
    )
    answer = await Host(ContextCapability(), of=call).ask("okra.context", "get")
    deadline = datetime.fromisoformat(answer.pop("deadline"))
    assert abs(deadline.timestamp() - time.time() - 5.0) < 2.0
    assert answer == {
        "principal": {"subject": "ada", "roles": ["clerk"]},
        "metadata": [["x-a", "1"], ["x-a", "2"]],
        "traceparent": "00-aa-bb-01",
        "idempotencyKey": "k",
    }


async def test_nobody() -> None:
    assert (await Host(ContextCapability()).ask("okra.context", "get"))["principal"] is None


async def test_set() -> None:
    host = Host(ContextCapability())
    for name, value in (("X-A", "1"), ("x-a", "two words"), ("etag", ""), ("x-bin", "aGk")):
        assert await host.ask("okra.context", "setHeader", {"name": name, "value": value}) is None
    await host.ask("okra.context", "setTrailer", {"name": "x-t", "value": "3"})
    assert host.scope.headers == [("x-a", "1"), ("x-a", "two words"), ("etag", ""), ("x-bin", "aGk")]
    assert host.scope.trailers == [("x-t", "3")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("a\r\nb", "x"),
        ("a:b", "x"),
        (":status", "x"),
        ("é", "x"),
        ("x" * 129, "x"),
        ("x-a", "line\r\nset-cookie: a=b"),
        ("x-a", "nul\0"),
        ("x-a", "tab\there"),
        ("x-a", " x"),
        ("x-a", "x "),
        ("x-a", "x\n"),
        ("x-a\n", "x"),
        ("x-a", "ü"),
        ("x-a", "x" * 4097),
        ("x-a-bin", "***"),
        ("Content-Length", "0"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("content-type", "text/html"),
        ("set-cookie", "a=b"),
        ("Access-Control-Allow-Origin", "*"),
        ("connect-content-encoding", "gzip"),
        ("grpc-status", "0"),
        ("trailer-x", "1"),
        ("location", "https://example.org"),
        ("x-request-id", "1"),
        ("content-language", "en"),
        ("content-disposition", "inline"),
        ("set-cookie2", "a=b"),
        ("x-content-type-options", "nosniff"),
        ("proxy-connection", "close"),
        ("\u212aey", "x"),  # the Kelvin sign, whose lower case is k
    ],
)
async def test_refused(name: str, value: str) -> None:
    host = Host(ContextCapability())
    for method in ("setHeader", "setTrailer"):
        assert await host.ask("okra.context", method, {"name": name, "value": value}) == "INVALID_PARAMETERS"
    assert host.scope.headers == host.scope.trailers == []


async def test_number_and_size() -> None:
    host = Host(ContextCapability())
    for number in range(MAX_PAIRS):
        method = "setHeader" if number % 2 else "setTrailer"
        assert await host.ask("okra.context", method, {"name": "x-a", "value": "1"}) is None
    assert await host.ask("okra.context", "setHeader", {"name": "x-a", "value": "1"}) == "LIMIT_EXCEEDED"
    host = Host(ContextCapability())
    for _ in range(MAX_BYTES // 4000):
        assert await host.ask("okra.context", "setHeader", {"name": "x-a", "value": "x" * 3990}) is None
    assert await host.ask("okra.context", "setTrailer", {"name": "x-a", "value": "x" * 3990}) == "LIMIT_EXCEEDED"


async def test_a_trailer_counts_as_it_goes_out() -> None:
    host = Host(ContextCapability())
    room = MAX_BYTES - 4096 - len("x-a: \r\n") - len("trailer-x-t: \r\n")
    assert await host.ask("okra.context", "setHeader", {"name": "x-a", "value": "x" * 4096}) is None
    assert await host.ask("okra.context", "setTrailer", {"name": "x-t", "value": "x" * (room + 1)}) == "LIMIT_EXCEEDED"
    assert await host.ask("okra.context", "setTrailer", {"name": "x-t", "value": "x" * room}) is None


@given(st.text(max_size=20), st.text(max_size=40))
async def test_whatever_is_let_through_is_a_header(name: str, value: str) -> None:
    host = Host(ContextCapability())
    await host.ask("okra.context", "setHeader", {"name": name, "value": value})
    for key, text in host.scope.headers:
        assert key.isascii()
        assert key.isprintable()
        assert key == key.lower()
        assert not set(key) & set(' \t"(),/:;<=>?@[\\]{}')
        assert text.isascii()
        assert text.isprintable() or not text
        assert text == text.strip()


_WORDS = st.sampled_from(
    ["X-A", "etag", "cache-control", "x-bin", "content-language", "set-cookie2", "x-frame-a", "vary", "link", "expires"]
)
_TOKENS = st.text("abcxyzABC0189!#$%&'*+.^_`|~-", max_size=140)
_TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7F), max_size=300) | st.text(max_size=20)


@given(
    st.lists(st.tuples(st.booleans(), _WORDS | _TOKENS | st.text(max_size=20), _TEXTS), max_size=70),
    st.sampled_from([0, 3900, 4096]),
)
async def test_whatever_is_let_through_is_sent(fields: list[tuple[bool, str, str]], padding: int) -> None:
    host = Host(ContextCapability())
    taken = 0
    for trailer, name, value in (*((False, "x-pad", "p" * padding) for _ in range(2)), *fields):
        method = "setTrailer" if trailer else "setHeader"
        taken += await host.ask("okra.context", method, {"name": name, "value": value}) is None
    sent = from_guest(ID, tuple(host.scope.headers), tuple(host.scope.trailers))
    assert len(sent) == taken
    answer = Response(200, ((b"content-type", b"application/json"), *sent))
    assert checked(Head("POST", b"/", b"", []), Route(Plain(lambda _: answer), "/"), answer) is answer


@pytest.mark.parametrize("phase", [Phase.START, Phase.DRAIN, Phase.CLOSE])
async def test_where_nobody_calls_there_is_no_answer_to_set_headers_for(phase: Phase) -> None:
    call = scope()
    call.phase = phase
    host = Host(ContextCapability(), of=call)
    for method in ("setHeader", "setTrailer"):
        assert await host.ask("okra.context", method, {"name": "x-a", "value": "1"}) == "UNAVAILABLE"
    assert (call.headers, call.trailers) == ([], [])
    assert (await host.ask("okra.context", "get"))["principal"] is None
