"""The reader of HTTP/1.1: bytes in, events out. It is tried alone, as h11 is, and h11 says what is right."""

from __future__ import annotations

import ast
import gc
import inspect
import weakref
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.edge import http1
from insula.edge.http1 import SLICE, Data, End, Reader, Refused, RequestHead, Stage
from insula.edge.last_words import Last
from insula.edge.limits import ConnectionLimits

LIMITS = ConnectionLimits(max_head=4096, max_target=1024, max_fields=20)


def reader(limits: ConnectionLimits = LIMITS) -> Reader:
    return Reader(limits, lambda target, protocol: (target, protocol) == (b"/ws", b"websocket"))


def read(each: Reader, *pieces: bytes) -> list[Any]:
    """The events, with the pieces of a body put together."""
    found: list[Any] = []
    for piece in pieces:
        start = 0
        while start < len(piece) and each.stage is not Stage.DEAF:
            start = each.feed(piece, start)
            while each.events:
                event = each.events.popleft()
                if isinstance(event, Data) and found and isinstance(found[-1], Data):
                    event = Data(found.pop().piece + event.piece)
                found.append(event)
    return found


def head(method: bytes, target: bytes, fields: list[tuple[bytes, bytes]], length: int | None) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method, target), *(b"%b: %b" % field for field in fields)]
    if length is not None:
        lines.append(b"content-length: %d" % length)
    return b"\r\n".join([*lines, b"", b""])


NAMES = st.from_regex(rb"\Ax-[a-z0-9-]{1,8}\Z")
VALUES = st.from_regex(rb"\A[!-~]([ -~]{0,20}[!-~])?\Z")
BODIES = st.binary(max_size=200)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One sound request: with a length, in chunks, or without a body."""
    method = draw(st.sampled_from((b"GET", b"POST", b"DELETE", b"PUT")))
    target = draw(st.from_regex(rb"\A/[a-z0-9/%]{0,20}(\?[a-z=&]{0,10})?\Z"))
    fields = [(b"host", b"a"), *draw(st.lists(st.tuples(NAMES, VALUES), max_size=4))]
    body = draw(BODIES)
    if method == b"GET":
        return head(method, target, fields, None)
    if draw(st.booleans()):
        return head(method, target, fields, len(body)) + body
    pieces = [piece for piece in (body[:7], body[7:]) if piece]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head(method, target, [*fields, (b"transfer-encoding", b"chunked")], None) + chunks + b"0\r\n\r\n"


def as_h11(stream: bytes) -> list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]]:
    """What h11 makes of it."""
    found: list[Any] = []
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(stream)
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            return found
        assert isinstance(event, h11.Request)
        body = b""
        while not isinstance(piece := connection.next_event(), h11.EndOfMessage):
            assert isinstance(piece, h11.Data)
            body += bytes(piece.data)
        found.append((event.method, event.target, list(event.headers), body))
        connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_it_reads_what_h11_reads_however_it_is_cut(streams: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(streams)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    events = read(reader(), *pieces)
    assert events == read(reader(), stream)
    found: list[Any] = []
    while events:
        first = events.pop(0)
        assert isinstance(first, RequestHead)
        body = events.pop(0).piece if isinstance(events[0], Data) else b""
        assert isinstance(events.pop(0), End)
        found.append((first.method.encode(), first.target, first.headers, body))
    assert found == as_h11(stream)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_any_bytes_are_read_or_refused(noise: bytes, cuts: list[int]) -> None:
    each = reader()
    ends = sorted({min(cut, len(noise)) for cut in cuts} | {len(noise)})
    events = read(each, *(noise[start:end] for start, end in zip([0, *ends], ends, strict=False)))
    refused = [event for event in events if isinstance(event, Refused)]
    assert len(refused) <= 1
    assert bool(refused) <= (each.stage is Stage.DEAF)
    assert each.feed(b"GET / HTTP/1.1\r\n", 0) if each.stage is not Stage.DEAF else True


@pytest.mark.parametrize(
    ("stream", "last", "in_body"),
    [
        (b"nonsense\r\n\r\n", Last.MALFORMED, False),
        (b"GET / HTTP/1.1\r\n\r\n", Last.HOST, False),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Last.VERSION, False),
        (b"GET /" + b"x" * 1030 + b" HTTP/1.1\r\nHost: a\r\n\r\n", Last.TARGET_TOO_LONG, False),
        (head(b"GET", b"/", [(b"host", b"a"), (b"x", b"y" * 4200)], None), Last.HEAD_TOO_LARGE, False),
        (head(b"GET", b"/", [(b"host", b"a"), *[(b"x", b"y")] * 20], None), Last.HEAD_TOO_LARGE, False),
        (b"\r\n" * 3000, Last.HEAD_TOO_LARGE, False),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", Last.MALFORMED, True),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n",
            Last.MALFORMED,
            True,
        ),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1;x="
            + b"y" * 99_000
            + b"\r\nz\r\n",
            Last.MALFORMED,
            True,
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", Last.UPGRADE, False),
    ],
)
def test_what_is_refused(stream: bytes, last: Last, in_body: bool) -> None:
    each = reader()
    event = read(each, stream)[-1]
    assert (event.last, event.in_body, each.stage) == (last, in_body, Stage.DEAF)


def test_a_client_that_begins_with_http_2_is_known() -> None:
    [event] = read(reader(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert event.is_preface


def test_what_comes_behind_the_head_of_an_upgrade_is_left_alone() -> None:
    offer = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n"
    for cut in range(1, len(offer) + 6):
        each = reader()
        stream = offer + b"\x81\x00\x00rest"
        first, end = read(each, stream[:cut], stream[cut : len(offer) + 7])
        assert (first.upgrade, end, each.stage) == (b"websocket", End(), Stage.DEAF)
        assert (offer + each.rest).startswith(stream[: max(cut, len(offer))])


def test_the_offer_of_http_2_is_passed_over() -> None:
    each = reader()
    first, end = read(each, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nmore")
    assert (first.upgrade, first.keep_alive, end, each.rest) == (None, False, End(), b"")


@pytest.mark.parametrize(
    ("version", "field", "keeps"),
    [
        ("1.1", b"", True),
        ("1.1", b"Connection: close\r\n", False),
        ("1.0", b"", False),
        ("1.0", b"Connection: keep-alive\r\n", False),
    ],
)
def test_whether_the_connection_goes_on(version: str, field: bytes, keeps: bool) -> None:
    first, _ = read(reader(), b"GET / HTTP/%b\r\nHost: a\r\n%b\r\n" % (version.encode(), field))
    assert (first.version, first.keep_alive) == (version, keeps)


def test_whether_the_client_waits_for_100() -> None:
    stream = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n"
    [first] = read(reader(), stream)
    assert first.expects


def test_a_client_of_http_1_0_waits_for_no_100() -> None:
    """It may take the 100 for the answer (RFC 9110, 10.1.1)."""
    [first] = read(reader(), b"POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    assert not first.expects


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://b/path", b"b"),
        (b"http://b:81/path?x", b"b:81"),
        (b"http://[::1]:81/path", b"[::1]:81"),
        (b"/path", b"a"),
        (b"/http://b/", b"a"),
    ],
)
def test_the_host_of_a_target_that_is_a_whole_url_counts(target: bytes, host: bytes) -> None:
    first, _ = read(reader(), b"GET %b HTTP/1.1\r\nX-A: 1\r\nHost: a\r\n\r\n" % target)
    assert first.headers == [(b"x-a", b"1"), (b"host", host)]


def test_a_slice_ends_with_a_head_or_a_body() -> None:
    """So whoever feeds it decides after each whether the next one is read."""
    each = reader()
    get = head(b"GET", b"/", [(b"host", b"a")], None)
    assert each.feed(get * 50) == len(get)
    post = head(b"POST", b"/", [(b"host", b"a")], 90_000)
    each = reader()
    stream = post + b"x" * 90_000 + get
    assert each.feed(stream) == len(post)
    assert each.feed(stream, len(post)) == len(post) + 65_536
    assert each.feed(stream, len(post) + 65_536) == len(post) + 90_000
    assert reader().feed(b"\r\n" * SLICE) <= SLICE


def test_what_has_come_of_a_head_is_counted() -> None:
    each = reader()
    read(each, b"GET /path HTTP/1.1\r\nHost: a\r\nX-A: " + b"y" * 500 + b"\r\nX-B: ")
    assert each.begun
    assert 500 < each.partial < 530
    read(each, b"1\r\n\r\n")
    assert (each.begun, each.partial) == (False, 0)
    read(each, b"\r\n")
    assert (each.begun, each.partial) == (True, 2)


def test_a_failure_of_ours_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Reader, target: bytes) -> None:
        raise KeyError(target)

    monkeypatch.setattr(Reader, "on_url", fails)
    with pytest.raises(KeyError):
        reader().feed(b"GET / HTTP/1.1\r\n")


def test_it_leaves_nothing_for_the_collector() -> None:
    class Own(Reader):
        pass

    gc.disable()
    try:
        each = Own(LIMITS, lambda target, protocol: False)
        each.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        gone = weakref.ref(each)
        each.close()
        del each
        assert gone() is None
    finally:
        gc.enable()


def test_it_does_no_io() -> None:
    tree = ast.parse(inspect.getsource(http1))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"enum", "httptools"}
