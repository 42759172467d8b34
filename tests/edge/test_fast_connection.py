"""Both roads say the same, byte for byte, whatever comes and however it is cut; and what the lane alone must see to."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import weakref
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.edge.admission import Draining, Identified
from insula.edge.answers import checked
from insula.edge.exchange import Answer, Head, Response, Route
from insula.edge.fast_connection import IN_A_ROW, PATIENCE, FastConnection
from insula.edge.lane import MAX_BODY
from insula.edge.last_words import Last
from insula.edge.limits import ConnectionLimits
from insula.edge.routes import RouteTable
from insula.errors import InsulaError, LimitError
from insula.plans import Policy
from tests.edge.conftest import Street, answers, statuses, until
from tests.edge.roads import CLOSE, PLAIN, TEXT, Roads, Told, chunked, neutral, post, roads

LIMITS = ConnectionLimits(
    linger=0.3, keep_alive_timeout=0.3, head_timeout=0.3, body_timeout=0.3, first_byte_timeout=2.0
)
GET = b"GET /read HTTP/1.1\r\nHost: a\r\n\r\n"
EXPECT = b"Expect: 100-continue\r\n"

#: Streams that end with the connection: name -> bytes.
SHAPES = {
    "one": post() + CLOSE,
    "empty body": post(b"") + CLOSE,
    "forty ahead": post() * 40 + CLOSE,
    "in order": b"".join(post(b"%d" % n) for n in range(9)) + CLOSE,
    "a GET between": post() + GET + post() + CLOSE,
    "chunked between": post() + chunked(b"later") + post() + CLOSE,
    "empty chunks": chunked(b"") + post() + CLOSE,
    "a late one between": post() + post(b"later") + post() * 3 + CLOSE,
    "late ones in a row": post(b"later") * 3 + CLOSE,
    "expect": post(fields=EXPECT) + post() + CLOSE,
    "expect behind a late one": post(b"later") + post(fields=EXPECT) + CLOSE,
    "another expectation": post(fields=b"Expect: gold\r\n") + CLOSE,
    "HTTP/1.0": post() + post(version=b"1.0") + post(),
    "HTTP/1.0 that would stay": post() + post(version=b"1.0", fields=b"Connection: keep-alive\r\n") + post(),
    "close": CLOSE + post(),
    "close in other words": post(fields=b"CONNECTION: Keep-Alive, CLOSE\r\n") + post(),
    "keep-alive in words": post(fields=b"Connection: keep-alive\r\n") + CLOSE,
    "upgrade": post() + b"GET /read HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + post(),
    "upgrade by POST": post() + post(fields=b"Connection: Upgrade\r\nUpgrade: websocket\r\n") + post(),
    "h2c offered": post() + post(b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n") + post(),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown path": post(path=b"/none") + CLOSE,
    "with a query": post(path=b"/do?x=1") + CLOSE,
    "absolute form": post(path=b"http://a/do") + CLOSE,
    "percent signs": post(path=b"/%64o") + CLOSE,
    "405": post(path=b"/read") + b"PUT /do HTTP/1.1\r\nHost: a\r\n\r\n" + CLOSE,
    "OPTIONS and HEAD": b"OPTIONS /do HTTP/1.1\r\nHost: a\r\n\r\nHEAD /read HTTP/1.1\r\nHost: a\r\n\r\n" + CLOSE,
    "415": post().replace(b"text/plain", b"text/csv") + CLOSE,
    "a handler that cannot prepare": post().replace(b"text/plain", b"text/broken") + CLOSE,
    "413": post(b"x" * 100_001) + CLOSE,
    "413 at once": post(b"x" * 100_001)[:300],
    "larger than the lane takes": post(b"x" * (MAX_BODY + 1)) + CLOSE,
    "as large as the lane takes": post(b"x" * MAX_BODY) + CLOSE,
    "no length": b"POST /do HTTP/1.1\r\nHost: a\r\n\r\n" + CLOSE,
    "trap": post(b"trap") + CLOSE,
    "a panic": post(b"raise") + CLOSE,
    "invalid input": post(b"json") + CLOSE,
    "refused with a retry": post(b"refuse") + CLOSE,
    "a header that may not be": post(b"bad") + CLOSE,
    "no content": post(b"status 204") + post(b"status 304") + CLOSE,
    "a status that is none": post(b"status 100") + post(b"status 999") + CLOSE,
    "many headers": post(b"many 50") + CLOSE,
    "gzip sent": post(gzip.compress(b"hello"), b"Content-Encoding: gzip\r\n") + CLOSE,
    "gzip wanted": post(b"big 5000", b"Accept-Encoding: gzip;q=1.0, identity;q=0.5\r\n") + CLOSE,
    "gzip not worth it": post(b"big 900", b"Accept-Encoding: gzip\r\n") + CLOSE,
    "nothing wanted": post(b"big 5000") + CLOSE,
    "gzip in a thread": post(b"big 200000", b"Accept-Encoding: gzip\r\n") + post() + CLOSE,
    "large and plain": post(b"big 200000") + post() + CLOSE,
    "ids": post(fields=b"X-Request-Id: mine\r\n") + post(fields=b"X-Request-Id: not mine\r\n") * 2 + CLOSE,
    "two ids": post(fields=b"X-Request-Id: a\r\nX-Request-Id: b\r\n") + CLOSE,
    "the id of an error": post(b"trap", b"X-Request-Id: mine\r\n") + CLOSE,
    "empty lines first": b"\r\n\r\n" + post() + b"\r\n" + post() + CLOSE,
    "a lonely CR": b"\r" + post() + CLOSE,
    "two lengths": post(fields=b"Content-Length: 5\r\n"),
    "length and chunked": post(fields=b"Transfer-Encoding: chunked\r\n"),
    "a plus in the length": post().replace(b"Length: 5", b"Length: +5"),
    "an underscore in the length": post(b"x" * 15).replace(b"Length: 15", b"Length: 1_5"),
    "a space after the length": post().replace(b"Length: 5", b"Length: 5 ") + CLOSE,
    "zeros before the length": post().replace(b"Length: 5", b"Length: 0005") + CLOSE,
    "two hosts": post(fields=b"Host: b\r\n"),
    "no host": post().replace(b"Host: a\r\n", b""),
    "bare line feeds": post().replace(b"\r\n", b"\n"),
    "bare line feeds before the end": b"POST /do HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello" + post(),
    "one bare line feed": post().replace(b"Host: a\r\n", b"Host: a\n") + CLOSE,
    "a folded header": post(fields=b"X-A: b\r\n  c\r\n"),
    "a space before the colon": post(fields=b"X-A : b\r\n"),
    "NUL in a value": post(fields=b"X-A: \0\r\n"),
    "bytes over 127": post(fields=b"X-A: \xff\xfe\r\n") + CLOSE,
    "garbage behind": post() + b"garbage\r\n\r\n",
    "more than the body": post() + b"zz" + post(),
    "HTTP/1.2": post(version=b"1.2") + post(),
    "HTTP/0.9": post(version=b"0.9") + post(),
    "a long target": post(path=b"/do?" + b"x" * 40_000),
    "many fields": post(fields=b"X: y\r\n" * 130),
    "as many fields as allowed": post(fields=b"X: y\r\n" * 125) + CLOSE,
    "a large head": post(fields=b"X-A: %b\r\n" % (b"y" * 9000)) * 2 + CLOSE,
    "too large a head": post(fields=b"X-A: %b\r\n" % (b"y" * 66_000)),
    "a body that looks like a request": post(post()) + CLOSE,
    "half a body": post()[:-2],
    "half a head": post() + post()[:30],
    "only a head": post()[:-5],
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_both_roads_say_the_same(shape: str) -> None:
    async with roads(LIMITS) as here:
        first = await here.same(SHAPES[shape])
        assert first == await here.same(SHAPES[shape])  # now the lane knows the heads
        numbers = [
            {
                label: (stats.by_status(), stats.bytes_in, stats.bytes_out)
                for label, stats in road.app.metrics.routes.items()
            }
            for road in here.both
        ]
        assert numbers[0] == numbers[1]
        assert here.ordinary.drops == here.lane.drops
        assert not here.lane.app.metrics.in_flight


@pytest.mark.parametrize("shape", ["one", "a GET between", "chunked between", "a late one between", "expect"])
async def test_both_roads_say_the_same_split_at_any_byte(shape: str) -> None:
    stream = SHAPES[shape]
    async with roads(LIMITS) as here:
        whole = await here.same(stream)
        for at in range(1, len(stream), 1 if len(stream) < 300 else 3):
            assert await here.same(stream[:at], stream[at:]) == whole, at


#: Reads of which the last bytes are no request, or one that has to wait for the one before.
NO_REQUESTS: list[tuple[bytes, ...]] = [
    # answered by its head; what comes after is its body, however much it looks like a request
    (post(post(b"smuggled")).replace(b"text/plain", b"text/csv", 1)[: -len(post(b"smuggled"))], post(b"smuggled")),
    (post(post(b"smuggled"), path=b"/none")[: -len(post(b"smuggled"))], post(b"smuggled"), post()),
    # within a head, a body, a chunk
    (b"POST /do HTTP/1.1\r\nX-A: ", post(b"one request, with a strange header")),
    (post(post(b"smuggled"))[: -len(post(b"smuggled"))], post(b"smuggled")),
    (post(b"12" + post(b"smuggled"))[: -len(post(b"smuggled"))], post(b"smuggled")),
    (b"POST /do HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n60\r\n", post(b"smuggled")),
    (b"\r", post()),
    (b"\r\n", post()),
    # behind the last request
    (CLOSE[:-3], CLOSE[-3:] + post(b"smuggled")),
    (post(b"later 50", b"Connection: close\r\n"), post(b"smuggled")),
    # behind an answer that is under way
    (post(b"later 30"), post(b"second"), post(b"third")),
    (GET + post(b"later 30"), post(b"second")),
]


@pytest.mark.parametrize("pieces", NO_REQUESTS)
async def test_what_is_no_request_is_never_taken_for_one(pieces: tuple[bytes, ...]) -> None:
    async with roads(LIMITS) as here:
        for _ in range(2):
            await here.same(*pieces)
            assert b"smuggled" not in [body for _, _, body in here.told[1].asked]


@pytest.mark.parametrize("pieces", NO_REQUESTS)
async def test_nor_where_its_very_bytes_were_one_before(pieces: tuple[bytes, ...]) -> None:
    """On a connection that stands between two messages, with a head that the lane knows: each piece is one read."""
    async with roads(LIMITS) as here:
        for body in (b"smuggled", b"second", b"third"):
            assert await one(here.lane, post(body)) == (200, body)
        for pieces_ in (pieces, (*pieces, post(b"behind"))):
            said = await here.ordinary.talk(post(), *pieces_)
            here.told[1].asked.clear()
            reader, writer = await here.lane.connect()
            writer.write(post())
            await reader.readuntil(b"hello")
            [connection] = connections(here.lane)
            for piece in pieces_:
                connection.data_received(piece)
            rest = await reader.read()
            assert answers(neutral(rest)) == answers(neutral(said))[1:]
            assert [body for _, _, body in here.told[1].asked] == [body for _, _, body in here.told[0].asked]
            assert b"smuggled" not in [body for _, _, body in here.told[1].asked]
            here.told[0].asked.clear()
            writer.close()
            await until(lambda: not connections(here.lane))


async def test_an_empty_line_before_a_request_is_no_slow_head() -> None:
    async with roads(ConnectionLimits(head_timeout=0.1, keep_alive_timeout=0.4, linger=0.2)) as here:
        assert statuses(await here.same(b"\r\n", post())) == [200]


async def test_byte_by_byte() -> None:
    patient = ConnectionLimits(
        linger=0.3, head_timeout=30.0, body_timeout=30.0
    )  # a busy machine takes its time for each byte
    async with roads(patient) as here:
        stream = post() + post(b"later") + CLOSE
        assert await here.same(*(stream[at : at + 1] for at in range(len(stream)))) == await here.same(stream)


_FIELDS = st.lists(
    st.sampled_from(
        [b"X-A: 1\r\n", b"Accept-Encoding: gzip\r\n", b"X-Request-Id: mine\r\n", EXPECT, b"Connection: keep-alive\r\n"]
    ),
    max_size=2,
    unique=True,
).map(b"".join)
_BODIES = st.sampled_from([b"", b"hi", b"later", b"trap", b"raise", b"refuse", b"big 1500", b"status 204", b"many 9"])
_REQUESTS = st.one_of(
    st.builds(post, _BODIES, _FIELDS),
    st.builds(post, _BODIES, _FIELDS),
    st.builds(chunked, _BODIES),
    st.just(GET),
    st.builds(post, _BODIES, _FIELDS, st.sampled_from([b"/none", b"/do?a", b"/read"])),
)


@st.composite
def _streams(draw: st.DrawFn) -> list[bytes]:
    """Some requests, a few bytes of them changed, cut into pieces."""
    stream = bytearray(b"".join(draw(st.lists(_REQUESTS, min_size=1, max_size=6))) + CLOSE)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(stream) - 1))
        kind = draw(st.integers(0, 2))
        byte = draw(st.sampled_from(list(b"\r\n :0159aZ,;\0\x80\t/?PGH")))
        if kind == 0:
            stream[at] = byte
        elif kind == 1:
            stream.insert(at, byte)
        else:
            del stream[at]
    cuts = draw(st.lists(st.integers(0, len(stream)), max_size=3))
    return [bytes(stream[a:b]) for a, b in pairwise(sorted({0, len(stream), *cuts}))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_both_roads_say_the_same_to_generated_streams(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    limits = ConnectionLimits(linger=0.1, keep_alive_timeout=0.1, head_timeout=0.1, body_timeout=0.1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        opened = roads(limits)
        here = runner.run(opened.__aenter__())

        @settings(max_examples=150, deadline=None)
        @given(pieces=_streams())
        def same(pieces: list[bytes]) -> None:
            runner.run(here.same(*pieces))

        try:
            same()
        finally:
            runner.run(opened.__aexit__(None, None, None))
        assert here.lane.app.metrics.routes["/do"].by_status()[200] > 100


def connections(street: Street) -> list[FastConnection]:
    """The connections that are open."""
    return [made for made in street.listener._shared.live if isinstance(made, FastConnection)]


# What is remembered, and what is asked each time


async def one(street: Street, request: bytes) -> tuple[int, bytes]:
    """The answer to one request on a connection of its own."""
    reader, writer = await street.connect()
    try:
        writer.write(request)
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            [(status, _, _)] = answers(head.replace(b"content-length", b"size"))
            size = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
            return status, await reader.readexactly(size)
    finally:
        writer.close()


async def test_a_head_that_came_before_is_not_read_again() -> None:
    async with roads(LIMITS) as here:
        told = here.told[1]
        for body in (b"one", b"two"):
            assert await one(here.lane, post(body)) == (200, body)
        assert told.prepared == 1
        assert told.peers == {("127.0.0.1", "http")}
        assert told.tasks == [None, None]  # answered within the connection


#: Ten bytes each, so that all have one head: what is known of the last answer to it must not be said of another one.
SAME_HEAD = [
    *(b"status 204", b"status 304", b"status 404", b"status 503", b"long 00900", b"long 01023", b"long 01024"),
    *(b"long 65535", b"long 65536", b"big 000900", b"many 00003", b"trap      ", b"raise     ", b"refuse    "),
    *(b"json      ", b"bad       ", b"none      ", b"later 0001", b"x" * 10),
]


@pytest.mark.parametrize("fields", [b"", b"Accept-Encoding: gzip\r\n"], ids=["plain", "gzip"])
async def test_an_answer_that_is_known_is_not_given_for_another(
    fields: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    usual = post(b"the usual.", fields)
    async with roads(LIMITS) as here:
        for body in SAME_HEAD:
            assert len(body) == 10
            await here.same(usual * 2 + post(body, fields) * 2 + usual + CLOSE)
        assert len(here.told[1].asked) == 6
        numbers = [road.app.metrics.routes["/do"] for road in here.both]
        assert numbers[0].by_status() == numbers[1].by_status()
        assert (numbers[0].bytes_in, numbers[0].bytes_out) == (numbers[1].bytes_in, numbers[1].bytes_out)


async def test_the_fields_of_the_listener_are_those_of_now() -> None:
    async with roads(LIMITS) as here:
        reader, writer = await here.lane.connect()
        state = here.lane.listener._shared
        for date in (b"one", b"two", b"two", b"three"):
            if state.default_fields != [(b"date", date)]:
                state.default_fields = [(b"date", date)]
            writer.write(post())
            said = await reader.readuntil(b"hello")
            assert answers(said)[0][1][b"date"] == date
        writer.close()


@pytest.mark.parametrize(("bound", "quick"), [(-1.0, 0), (60.0, 3)])
async def test_what_is_quick_is_counted_so(bound: float, quick: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insula.edge.lane.QUICK", bound)
    async with roads(LIMITS) as here:
        assert statuses(await here.lane.talk(post() * 4 + CLOSE)) == [200] * 5
        stats = here.lane.app.metrics.routes["/do"]
        assert stats.quick == quick  # the first has to be told first, and the last is the ordinary road's
        assert stats.by_status() == {200: 5}
        assert (stats.bytes_in, stats.bytes_out) == (23, 23)
        stats.seconds = 0.0
        assert await one(here.lane, post()) == (200, b"hello")
        assert stats.seconds > 0


async def test_what_is_large_is_not_compressed_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def finished(*_: object) -> None:
        raise AssertionError("by the lane itself")

    monkeypatch.setattr("insula.edge.lane.finished", finished)
    async with roads(LIMITS) as here:
        status, _ = await one(here.lane, post(b"big 200000", b"Accept-Encoding: gzip\r\n"))
        assert status == 200


async def test_the_fields_of_an_answer_are_remembered_where_they_are_few() -> None:
    async with roads(LIMITS) as here:
        assert here.lane.lane is not None
        for body, remembered in ((b"many 3", True), (b"many 99", False)):
            here.lane.lane.memo.forget()
            assert (await one(here.lane, post(body)))[0] == 200
            [known] = here.lane.lane.memo.young.values()
            assert (known.said is not None) == remembered


async def test_the_body_of_a_known_head_may_come_with_the_next_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insula.edge.fast_connection.SECOND_READ", 5.0)
    reads = 0
    received = FastConnection.data_received

    def counted(connection: FastConnection, data: bytes) -> None:
        nonlocal reads
        reads += 1
        received(connection, data)

    monkeypatch.setattr(FastConnection, "data_received", counted)
    async with roads(LIMITS) as here:
        told, whole = here.told[1], post()
        assert await one(here.lane, whole) == (200, b"hello")
        reader, writer = await here.lane.connect()
        for pieces in (
            (whole[:-5], whole[-5:]),
            (whole + whole[:-2], whole[-2:]),
            (whole[:-5], whole[-5:-2], whole[-2:]),
        ):
            for piece in pieces[:-1]:
                before = reads
                writer.write(piece)
                await until(lambda before=before: reads > before)  # type: ignore[misc]
            writer.write(pieces[-1])
            await reader.readuntil(b"hello")
        await reader.readuntil(b"hello")
        assert [task is None for task in told.tasks] == [True] * 4 + [False]  # three reads are the ordinary road's
        writer.close()


async def test_half_a_message_that_waits_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to the ordinary road after a moment, or when the listener stops; or with its client."""
    async with roads(LIMITS) as here:
        assert statuses(await here.same(post()[:-2])) == [408]
        assert statuses(await here.same(post() + post()[:-2])) == [200, 408]
        monkeypatch.setattr("insula.edge.fast_connection.SECOND_READ", 5.0)
        reader, writer = await here.lane.connect()
        writer.write(post() + post()[:-2])
        await reader.readuntil(b"hello")
        _, other = await here.lane.connect()
        other.write(post()[:-2])
        await until(lambda: sum(bool(made._begun) for made in connections(here.lane)) == 2)
        other.transport.abort()
        await until(lambda: here.lane.listener.connections == 1)
        stopping = asyncio.create_task(here.lane.listener.stop(5.0))
        await until(lambda: here.lane.app.metrics.in_flight == 1)
        writer.write(post()[-2:])
        [(status, headers, _)] = answers(await reader.read())
        assert (status, headers[b"connection"]) == (200, b"close")
        await stopping
        writer.close()


async def test_a_new_table_is_seen_by_the_next_request() -> None:
    async with roads(LIMITS) as here:
        app, told = here.lane.app, here.told[1]
        same = post()
        reader, writer = await here.lane.connect()

        async def ask() -> tuple[int, bytes]:
            writer.write(same)
            head = await reader.readuntil(b"\r\n\r\n")
            size = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            return int(head[9:12]), await reader.readexactly(size)

        assert await ask() == (200, b"hello")
        other = Told()
        app.table = RouteTable([(b"/do", Route(other, "/do", frozenset(("POST",)), max_body=100))])
        assert await ask() == (200, b"hello")
        assert len(told.asked) == len(other.asked) == 1
        app.rules = (Identified(),)
        assert await ask() == (200, b"hello")
        app.rules = (Draining(), Identified())
        status, body = await ask()
        assert (status, json.loads(body)["error"]["reason"]) == (503, "draining")
        app.rules = (Identified(),)
        app.table = RouteTable([(b"/do", Route(other, "/do", frozenset(("POST",)), Policy(True), 100))])
        assert (await ask())[0] == 401
        app.table = RouteTable([(b"/do", Route(other, "/do", frozenset(("POST",)), max_body=4))])
        assert (await ask())[0] == 413
        app.table = RouteTable([(b"/do", Route(other, "/do"))])
        assert (await ask())[0] == 405
        app.table = RouteTable(())
        assert (await ask())[0] == 404
        assert len(other.asked) == 2
        writer.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_whatever_changes_between_two_equal_requests_is_seen() -> None:
    changes = st.lists(st.sampled_from(["override", "undeploy", "drain", "identify", "ask"]), max_size=12)

    async def play(here: Roads, steps: list[str]) -> None:
        for road, told in zip(here.both, here.told, strict=True):
            draining, rules = False, (Identified(),)
            road.app.rules = rules
            route, said = Route(told, "/do", frozenset(("POST",)), max_body=10), []
            road.app.table = RouteTable([(b"/do", route)])
            reader, writer = await road.connect()
            for step in steps:
                if step == "override":
                    route = Route(Told(), "/do", frozenset(("POST",)), max_body=20)
                    road.app.table = RouteTable([(b"/do", route)])
                elif step == "undeploy":
                    road.app.table = RouteTable(())
                elif step == "drain":
                    draining = not draining
                    road.app.rules = (Draining(), *rules) if draining else rules
                elif step == "identify":
                    road.app.table = RouteTable([(b"/do", Route(told, "/do", frozenset(("POST",)), Policy(True), 20))])
                writer.write(post())
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(size)
                serves = road.app.table.exact.get(b"/do")
                asked = len(serves.handler.asked) if serves is not None else 0  # type: ignore[union-attr]
                said.append((step, head[9:12], asked))
                wanted = b"503" if draining and serves else None
                wanted = wanted or (b"404" if serves is None else b"401" if serves.policy.authenticated else b"200")
                assert head[9:12] in (wanted, b"503" if draining else wanted), said
            writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        opened = roads(LIMITS)
        here = runner.run(opened.__aenter__())

        @settings(max_examples=60, deadline=None)
        @given(steps=changes)
        def seen(steps: list[str]) -> None:
            runner.run(play(here, steps))

        try:
            seen()
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def test_a_rule_is_asked_at_each_request() -> None:
    class Rate:
        left = 3

        def concerns(self, route: Route) -> bool:
            return route.label == "/do"

        def __call__(self, _: Head, __: Route) -> InsulaError | None:
            self.left -= 1
            return LimitError("too many") if self.left < 0 else None

    async with roads(LIMITS) as here:
        here.lane.app.rules = (Rate(),)
        assert statuses(await here.lane.talk(post() * 4 + CLOSE)) == [200, 200, 200, 429, 429]


async def test_a_client_whose_heads_are_new_each_time_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("insula.edge.fast_connection.SECOND_READ", 5.0)
    async with roads(LIMITS) as here:
        many = b"".join(post(fields=b"Traceparent: 00-%032x-%016x-01\r\n" % (n, n)) for n in range(1, 200))
        assert statuses(await here.lane.talk(many + CLOSE)) == [200] * 200
        assert here.told[1].prepared == 200
        assert here.lane.lane is not None
        assert len(here.lane.lane.memo) == PATIENCE
        here.lane.lane.memo.forget()
        reader, writer = await here.lane.connect()
        for n in range(1, 20):
            new = post(b"%d" % (100 + n), fields=b"Traceparent: 00-%032x-%016x-01\r\n" % (n, n))
            writer.write(new[:-3])
            await until(lambda: any(made._begun for made in connections(here.lane)))
            writer.write(new[-3:])
            await reader.readuntil(b"%d" % (100 + n))
        assert len(here.lane.lane.memo) == PATIENCE
        writer.close()


# Turns, full buffers, ends


@pytest.mark.parametrize(("turn", "most"), [(60.0, IN_A_ROW), (-1.0, 1)], ids=["by number", "by time"])
async def test_one_client_does_not_hold_the_loop(turn: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insula.edge.fast_connection.TURN", turn)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with roads(LIMITS) as here:
        reader, writer = await here.lane.connect()
        writer.write(post(b"first"))
        await reader.readuntil(b"first")
        task = asyncio.create_task(others())
        told = here.told[1]
        seen: list[int] = []
        plain = told.answer

        def watched(head: Head, kind: bytes, body: bytes) -> object:
            seen.append(turns)
            return plain(head, kind, body)

        told.answer = watched  # type: ignore[method-assign, assignment]
        writer.write(post() * 500 + CLOSE)
        said = await reader.read()
        task.cancel()
        assert statuses(said) == [200] * 501
        assert max(seen.count(each) for each in set(seen)) <= 2 * most  # a read and a release in one turn of the loop
        writer.close()


async def test_a_client_that_does_not_read_is_not_answered_further() -> None:
    async with roads(ConnectionLimits(linger=0.3, keep_alive_timeout=0.3)) as here:
        told = here.told[1]
        reader, writer = await here.lane.connect()
        transport = writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]
        count = 400
        writer.write(post(b"big 60000") * count + CLOSE)
        await until(lambda: connections(here.lane))
        [connection] = connections(here.lane)
        await until(lambda: connection.flow.write_paused)
        for _ in range(count):  # the kernel's buffers take some more
            await asyncio.sleep(0)
        await until(lambda: connection.flow.write_paused)
        assert len(told.asked) < count
        assert connection.transport.get_write_buffer_size() < 400_000
        assert connection._held
        transport.resume_reading()  # type: ignore[attr-defined]
        said = await reader.read()
        assert statuses(said) == [200] * (count + 1)
        writer.close()


async def test_what_is_held_comes_before_what_comes_later() -> None:
    """A transport may give a little more after it was told to pause, and tell more than once that it has room."""
    async with roads(LIMITS) as here:
        told = here.told[1]
        reader, writer = await here.lane.connect()
        await until(lambda: connections(here.lane))
        [connection] = connections(here.lane)
        connection.data_received(b"".join(post(b"%d" % n) for n in range(IN_A_ROW + 5)))
        assert connection._held
        connection.data_received(post(b"later") + post(b"x" * 9000) + post(b"behind"))
        await until(lambda: b"later" in [body for _, _, body in told.asked])
        connection.resume_writing()
        connection.data_received(CLOSE)
        said = await reader.read()
        order = [body for _, _, body in answers(said)]
        assert order == [b"%d" % n for n in range(IN_A_ROW + 5)] + [b"at last", b"x" * 9000, b"behind", b"bye"]
        writer.close()


async def test_a_whole_request_does_not_pass_what_is_held() -> None:
    async with roads(LIMITS) as here:
        reader, writer = await here.lane.connect()
        writer.write(post(b"first"))
        await reader.readuntil(b"first")
        [connection] = connections(here.lane)
        here.told[1].asked.clear()
        connection.data_received(b"".join(post(b"%d" % n) for n in range(IN_A_ROW + 5)))
        assert connection._held
        connection.data_received(post(b"1"))  # as known as a head can be, alone and whole
        connection.data_received(CLOSE)
        order = [body for _, _, body in answers(await reader.read())]
        assert order == [*(b"%d" % n for n in range(IN_A_ROW + 5)), b"1", b"bye"]
        writer.close()


async def test_a_connection_that_is_gone_asks_nothing_more() -> None:
    async with roads(LIMITS) as here:
        reader, writer = await here.lane.connect()
        writer.write(post())
        await reader.readuntil(b"hello")
        [connection] = connections(here.lane)
        assert connection._plain
        connection.data_received(post()[:-2])
        assert connection._begun
        writer.transport.abort()
        await until(lambda: not connections(here.lane))
        assert (connection._begun, connection._second) == (b"", None)
        reader, writer = await here.lane.connect()
        writer.write(post())
        await reader.readuntil(b"hello")
        [idle] = connections(here.lane)
        writer.transport.abort()
        await until(lambda: not connections(here.lane))
        for gone in (connection, idle):
            gone.data_received(post())
        assert len(here.told[1].asked) == 2


async def test_a_request_behind_the_answer_that_filled_the_buffer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async with roads(ConnectionLimits(write_timeout=30.0)) as here:
        reader, writer = await here.lane.connect()
        writer.write(post())
        await reader.readuntil(b"hello")
        [connection] = connections(here.lane)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        count = 0
        while not connection.flow.write_paused:  # a head that is new each time is not taken straight away
            connection.data_received(post(b"big 60000", b"X-A: %d\r\n" % count))
            count += 1
        connection.data_received(post())
        assert connection._held == post()
        assert len(here.told[1].asked) == 1 + count
        held: list[bytes] = []
        monkeypatch.setattr(FastConnection, "_hold", lambda _, rest: held.append(rest))
        for _ in range(5):
            await asyncio.sleep(0)
        assert held == []  # it waits for the client, and does not look again in every turn
        monkeypatch.undo()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        writer.write(CLOSE)
        assert statuses(await reader.read()) == [200] * (count + 2)
        writer.close()


@pytest.mark.parametrize("end", ["shut", "linger", "fail", "pause"])
async def test_a_connection_that_ends_or_whose_client_does_not_read_takes_no_request(end: str) -> None:
    """Whole and known as the request is; one whose answer nobody takes is kept until somebody does."""
    async with roads(LIMITS) as here:
        reader, writer = await here.lane.connect()
        writer.write(post())
        await reader.readuntil(b"hello")
        [connection] = connections(here.lane)
        match end:
            case "shut":
                connection.shut()
            case "linger":
                connection.linger()
            case "fail":
                connection.fail(Last.HEAD_TIMEOUT)
            case _:
                connection.pause_writing()
        connection.data_received(post(b"again"))
        assert len(here.told[1].asked) == 1
        if end == "pause":
            assert connection._held == post(b"again")
            connection.resume_writing()
            await reader.readuntil(b"again")
            writer.write(CLOSE)
        assert len(statuses(await reader.read())) == {"fail": 1, "pause": 1}.get(end, 0)
        writer.close()


async def test_new_heads_are_added_as_long_as_known_ones_come_between() -> None:
    async with roads(LIMITS) as here:
        reader, writer = await here.lane.connect()
        writer.write(post())
        await reader.readuntil(b"hello")
        [connection] = connections(here.lane)
        for n in range(3 * PATIENCE):
            connection.data_received(post(fields=b"X-A: %d\r\n" % n))
            connection.data_received(post())
        assert here.lane.lane is not None
        assert len(here.lane.lane.memo) == 3 * PATIENCE + 1
        writer.close()


async def test_a_client_that_never_reads_is_cut_off() -> None:
    async with roads(ConnectionLimits(write_timeout=0.1)) as here:
        _, writer = await here.lane.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(post(b"big 60000") * 400)
        await until(lambda: here.lane.drops == {"slow_reader": 1})
        writer.close()


@pytest.mark.parametrize("busy", [post(), post(fields=b"X-A: NUMBER\r\n"), GET.replace(b"/read", b"/none")])
async def test_one_idle_timer_for_both_roads(busy: bytes) -> None:
    limits = ConnectionLimits(keep_alive_timeout=0.2, linger=0.2)
    async with roads(limits) as here:
        reader, writer = await here.lane.connect()
        loop = asyncio.get_running_loop()
        last = 0.0
        for n in range(6):  # for longer than an idle connection lives
            writer.write(busy.replace(b"NUMBER", b"%d" % n))
            await reader.readuntil(b"\r\n\r\n")
            last = loop.time()
            await asyncio.sleep(0.08)
        writer.write(post())
        async with asyncio.timeout(5):
            await reader.read()
        assert loop.time() - last > 0.19
        writer.close()


@pytest.mark.parametrize("lane", [False, True])
async def test_a_stop_ends_idle_connections_and_answers_what_has_begun(lane: bool) -> None:
    async with roads(ConnectionLimits(keep_alive_timeout=30)) as here:
        road, told = here.both[lane], here.told[lane]
        idle, half, waiting = [await road.connect() for _ in range(3)]
        for _, writer in (idle, half):
            writer.write(post())
        for reader, _ in (idle, half):
            await reader.readuntil(b"hello")
        half[1].write(post()[:-2])
        waiting[1].write(post(b"later 300") + post())
        await until(lambda: len(told.asked) == 3 and road.app.metrics.in_flight == 2)
        stopping = asyncio.create_task(road.listener.stop(5.0))
        assert await idle[0].read() == b""
        first, last = answers(await waiting[0].read())
        assert (first[0], first[2], last[0], last[1][b"connection"]) == (200, b"at last", 200, b"close")
        half[1].write(post()[-2:])
        [(status, headers, body)] = answers(await half[0].read())
        assert (status, headers[b"connection"], body) == (200, b"close", b"hello")
        await stopping


async def test_a_client_that_the_lane_answered_has_a_moment_for_its_next_request_at_a_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The timer of an idle connection is older than its last answer, since the lane does not set it anew each time."""
    monkeypatch.setattr("insula.edge.connection.MOMENT", 30.0)
    async with roads(ConnectionLimits(keep_alive_timeout=600, linger=0.3)) as here:
        reader, writer = await here.lane.connect()
        writer.write(post(b"first"))
        await reader.readuntil(b"first")
        [connection] = connections(here.lane)
        connection._idle.stop()  # a minute passes
        connection._idle._set(600 - 60)
        writer.write(post(b"second"))
        await reader.readuntil(b"second")
        stopping = asyncio.create_task(here.lane.listener.stop(20.0))
        await until(lambda: connection._last)
        writer.write(post(b"third"))
        [(status, headers, body)] = answers(await reader.read())
        assert (status, headers[b"connection"], body) == (200, b"close", b"third")
        await stopping
        writer.close()


async def test_a_stop_with_bytes_held() -> None:
    async with roads(ConnectionLimits(keep_alive_timeout=30)) as here:
        reader, writer = await here.lane.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(post(b"big 60000") * 400)
        await until(lambda: connections(here.lane))
        [connection] = connections(here.lane)
        await until(lambda: connection._held)
        stopping = asyncio.create_task(here.lane.listener.stop(5.0))
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        said = await reader.read()
        assert set(statuses(said)) == {200}  # whole answers, then the end
        await stopping
        writer.close()


@pytest.mark.parametrize("lane", [False, True], ids=["ordinary road", "lane"])
async def test_an_answer_that_is_refused_later_leaves_nothing_for_the_garbage_collector(lane: bool) -> None:
    """The error has the frames that it came through, their variables have the future, and the future has the error: and
    somewhere among them is the body."""

    class Body:
        """What the frame that fails has in hand."""

    async with roads(LIMITS) as here:
        told, bodies = here.told[lane], list[Any]()

        def failing(head: Head, kind: bytes, body: bytes) -> object:
            held = Body()
            bodies.append(weakref.ref(held))
            answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

            def fail(held: Body) -> None:
                try:
                    raise LimitError("no room")
                except Exception as raised:
                    answer.set_exception(raised)

            asyncio.get_running_loop().call_soon(fail, held)
            return answer

        told.answer = failing  # type: ignore[method-assign, assignment]
        reader, writer = await here.both[lane].connect()
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                writer.write(post())
                await reader.readuntil(b"\r\n\r\n")
            await until(lambda: len(bodies) == 3)
            await until(lambda: not any(body() for body in bodies))
        finally:
            gc.enable()
        writer.close()


@pytest.fixture(autouse=True)
def _a_turn_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is: what a turn begins is not the question in most of these tests."""
    monkeypatch.setattr("insula.edge.intake.BUDGET", 60.0)


async def crowd(here: Roads, count: int) -> tuple[list[FastConnection], list[Any]]:
    """Connections that have had an answer, and their clients."""
    clients = [await here.lane.connect() for _ in range(count)]
    for reader, writer in clients:
        writer.write(post(b"first"))
        await reader.readuntil(b"first")
    return connections(here.lane), clients


async def test_many_clients_together_do_not_hold_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has one whole request in the same turn; a turn answers one here, as if each took its whole time."""
    async with roads(LIMITS) as here:
        crowded, clients = await crowd(here, 20)
        monkeypatch.setattr("insula.edge.intake.BUDGET", 0.0)
        turn, told = 0, Counter[int]()
        plain = here.told[1].answer

        def watched(head: Head, kind: bytes, body: bytes) -> object:
            told[turn] += 1
            return plain(head, kind, body)

        here.told[1].answer = watched  # type: ignore[method-assign, assignment]

        def count() -> None:
            nonlocal turn
            turn += 1
            if told.total() < 20:
                asyncio.get_running_loop().call_soon(count)

        count()
        for connection in crowded:
            connection.data_received(post(b"second"))
        for reader, writer in clients:
            await reader.readuntil(b"second")
            writer.close()
        assert told.total() == 20
        assert max(told.values()) <= 2  # sockets are read and callbacks run in one turn


@pytest.mark.parametrize("end", ["the client has no more to say", "the listener stops"])
async def test_what_waits_for_its_turn_is_answered_before_an_end(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with roads(LIMITS) as here:
        crowded, clients = await crowd(here, 3)
        monkeypatch.setattr("insula.edge.intake.BUDGET", 0.0)
        for connection in crowded:
            connection.data_received(post(b"second"))
            if end == "the listener stops":
                connection.shutdown()
            else:
                connection.eof_received()
        for reader, writer in clients:
            assert b"second" in await reader.read()
            writer.close()


async def test_a_client_that_leaves_ends_the_call_that_the_lane_began() -> None:
    async with roads(LIMITS) as here:
        gone = asyncio.Event()

        class Never(Told):
            def answer(self, head: Head, kind: bytes, body: bytes) -> asyncio.Future[Response]:
                answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
                answer.add_done_callback(lambda _: gone.set())
                self.asked.append((b"", (), b""))
                return answer

        never = Never()
        here.lane.app.table = RouteTable([(b"/do", Route(never, "/do", frozenset(("POST",)), max_body=100))])
        _, writer = await here.lane.connect()
        writer.write(post())
        await until(lambda: never.asked)
        writer.transport.abort()
        async with asyncio.timeout(5):
            await gone.wait()
        await until(lambda: here.lane.app.metrics.routes["/do"].statuses == {499: 1})
        assert here.lane.app.metrics.in_flight == 0


async def test_a_call_that_the_lane_began_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insula.edge.app.SLACK", 0.0)

    class Never(Told):
        def answer(self, head: Head, kind: bytes, body: bytes) -> asyncio.Future[Response]:
            return asyncio.get_running_loop().create_future()

    async with roads(LIMITS) as here:
        for road in here.both:
            route = Route(Never(), "/do", frozenset(("POST",)), max_body=100, timeout=0.05)
            road.app.table = RouteTable([(b"/do", route)])
        assert statuses(await here.same(post())) == [504]


@pytest.mark.parametrize(
    "body", [None, "text", "text" * 500, "text" * 50_000, 7, ["a"]], ids=lambda body: f"{body!r:.9}"
)
@pytest.mark.parametrize("status", [200, 204])
@pytest.mark.parametrize("later", [False, True])
async def test_an_answer_whose_body_is_no_bytes_is_the_same_500_on_both_roads(
    body: Any, status: int, later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Told):
        def answer(self, head: Head, facts: bytes, _: bytes) -> Answer:
            response = Response(status, PLAIN, body)
            if not later:
                return response
            answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
            answer.set_result(response)
            return answer

    async with roads(LIMITS) as here:
        for road in here.both:
            road.app.table.exact[b"/wrong"] = Route(Wrong(), "/wrong", frozenset(("POST",)), max_body=100)
        wrong = post(path=b"/wrong", fields=b"Accept-Encoding: gzip\r\n")
        said = await here.same(post() + wrong + wrong + CLOSE)  # the second time the lane knows the answer's headers
        assert statuses(said) == [200, 500, 500, 200]
        assert b"text/plain" not in answers(said)[1][2]
    assert {record.getMessage().partition(" (")[0] for record in caplog.records} == {"/wrong failed"}
    assert {record.exc_info[0] for record in caplog.records if record.exc_info} == {TypeError}


def test_a_body_may_be_any_bytes() -> None:
    for body in (b"x", bytearray(b"x"), memoryview(b"x")):
        response = Response(200, (TEXT,), body)  # type: ignore[arg-type]
        assert checked(Head("GET", b"/", b"", []), Route(Told(), "/"), response) is response


async def test_silent_connections_cost_little_and_end() -> None:
    async with roads(ConnectionLimits(max_connections=400, first_byte_timeout=0.5)) as here:
        crowd = await asyncio.gather(*(here.lane.connect() for _ in range(300)))
        await until(lambda: here.lane.listener.connections == 300)
        assert await one(here.lane, post()) == (200, b"hello")
        await until(lambda: here.lane.listener.connections == 0)
        assert here.lane.drops == {"silent": 300}
        for _, writer in crowd:
            writer.close()
