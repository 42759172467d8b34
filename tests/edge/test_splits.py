"""The same bytes, however they are cut, get the same answers: what is read does not depend on where a packet ended."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.edge.limits import ConnectionLimits
from tests.edge.conftest import ROADS, answers, street

pytestmark = ROADS

_NAMES = st.sampled_from([b"X-A", b"x-b", b"Accept", b"User-Agent"])
_VALUES = st.binary(max_size=8).map(lambda value: bytes(33 + byte % 94 for byte in value))


@st.composite
def _request(draw: st.DrawFn) -> bytes:
    fields = b"".join(b"%b: %b\r\n" % pair for pair in draw(st.lists(st.tuples(_NAMES, _VALUES), max_size=3)))
    body = draw(st.binary(max_size=40))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return b"GET /echo HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"
    if kind == 1:
        return b"POST /nowhere HTTP/1.1\r\nHost: a\r\n" + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if kind == 2:
        half = len(body) // 2
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
        return (
            b"POST /echo HTTP/1.1\r\nHost: a\r\n"
            + fields
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + chunks
            + b"0\r\n\r\n"
        )
    return b"POST /echo HTTP/1.1\r\nHost: a\r\n" + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body


_STREAMS = st.tuples(
    st.lists(_request(), min_size=1, max_size=5),
    st.sampled_from(
        [b"", b"rubbish\r\n\r\n", b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n"]
    ),
)


def _without_ids(said: bytes) -> list[tuple[int, bytes]]:
    return [(status, b"" if status >= 400 else body) for status, _, body in answers(said)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@settings(max_examples=40, deadline=None)
@given(stream=_STREAMS, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_answers_do_not_depend_on_the_cuts(stream: tuple[list[bytes], bytes], cuts: list[int]) -> None:
    requests, end = stream
    whole = b"".join(requests) + (end or b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[a:b] for a, b in pairwise(places)]

    async def both() -> tuple[bytes, bytes]:
        async with street(ConnectionLimits(linger=0.2)) as here:
            return await here.talk(whole), await here.talk(*pieces)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        at_once, in_pieces = runner.run(both())
    assert _without_ids(at_once) == _without_ids(in_pieces)
    assert len(answers(at_once)) == len(requests) + 1
