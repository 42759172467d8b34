"""The listener over real sockets, in raw bytes: shapes of requests, limits, time."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from insula.edge.exchange import Response
from insula.edge.limits import ConnectionLimits
from insula.errors import CallerError
from tests.edge.conftest import QUICK, ROADS, answers, statuses, street, until

pytestmark = ROADS

HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\n"


async def test_a_request_may_come_split_at_any_byte() -> None:
    request = b"POST /echo?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    async with street() as here:
        for at in range(1, len(request), 3):
            said = await here.talk(request[:at], request[at:])
            assert [(status, body) for status, _, body in answers(said)] == [(200, b"hello")], at


async def test_chunked_bodies_and_their_trailers() -> None:
    request = (
        HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"4;ext=1\r\nhell\r\n1\r\no\r\n0\r\nAuthorization: stolen\r\nX-T: 1\r\n\r\n"
    )
    async with street() as here:
        assert [body for _, _, body in answers(await here.talk(request))] == [b"hello"]
        assert b"authorization" not in dict(here.probe.heads[0].headers)


async def test_pipelined_requests_are_answered_in_order() -> None:
    many = b"".join(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n%03d" % n for n in range(600))
    async with street() as here:
        assert [body for _, _, body in answers(await here.talk(many))] == [b"%03d" % n for n in range(600)]


async def test_a_slow_answer_holds_back_the_ones_behind_it() -> None:
    async with street() as here:
        reader, writer = await here.connect()
        writer.write(b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
        await here.probe.asked.wait()
        assert len(here.probe.heads) == 1
        here.probe.pending[0].set_result(Response(203, (), b"slow"))
        said = await reader.read()
        assert statuses(said) == [203] + [200] * 500
        writer.close()


async def test_http_1_0_gets_its_answer_and_the_end() -> None:
    async with street(ConnectionLimits(keep_alive_timeout=30)) as here:
        [(status, headers, _)] = answers(await here.talk(b"GET /echo HTTP/1.0\r\n\r\n"))
        assert (status, headers[b"connection"]) == (200, b"close")


async def test_nothing_is_read_after_a_request_that_closes() -> None:
    first = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with street() as here:
        assert statuses(await here.talk(first + b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")) == [200]
        assert len(here.probe.heads) == 1


async def test_what_comes_after_a_request_that_closes_is_not_even_parsed() -> None:
    async with street() as here:
        reader, writer = await here.connect()
        writer.write(b"GET /echo?later HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nnonsense\r\n\r\n")
        await here.probe.asked.wait()
        writer.write(b"more" * 50_000)
        await writer.drain()
        here.probe.pending[0].set_result(Response(200, (), b""))
        assert statuses(await reader.read()) == [200]
        assert here.drops == {}
        writer.close()


async def test_a_client_that_ends_its_half_and_takes_nothing_is_cut_off() -> None:
    """Whether little is left for it, less than a transport calls much, or more."""
    async with street(ConnectionLimits(write_timeout=0.1, linger=30.0)) as here:
        here.listener._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for size in (10, 60_000, 10_000_000):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, (here.listener.host, here.listener.port))
            _, writer = await asyncio.open_connection(sock=client, limit=1)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /echo?big=%d HTTP/1.1\r\nHost: a\r\n\r\n" % size)
            await until(lambda: here.probe.heads)
            writer.write_eof()
            await until(lambda: here.listener.connections == 0)
            here.probe.heads.clear()
            writer.close()


async def test_requests_ahead_of_the_end_are_answered_in_the_same_read() -> None:
    async with street() as here:
        reader, writer = await here.connect()
        writer.write(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        writer.write_eof()
        assert statuses(await reader.read()) == [200]
        writer.close()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_client_that_still_sends_gets_the_last_answer_and_no_reset(version: bytes) -> None:
    head = b"POST /echo HTTP/%b\r\nHost: a\r\nConnection: close\r\n" % version
    async with street(ConnectionLimits(linger=5.0)) as here:
        for size, status in ((5, 200), (100_000_000, 413)):
            reader, writer = await here.connect()
            writer.write(head + b"Content-Length: %d\r\n\r\nhello" % size)
            assert statuses(await reader.read()) == [status]
            for _ in range(100):  # more than the system takes for a socket that nobody reads
                writer.write(b"x" * 100_000)
                await writer.drain()
            assert here.listener.connections == 1
            writer.close()
            await until(lambda: here.listener.connections == 0)


async def test_a_client_that_keeps_its_half_open_is_cut_off() -> None:
    async with street(ConnectionLimits(linger=0.05)) as here:
        reader, writer = await here.connect()
        writer.write(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert statuses(await reader.read()) == [200]
        await until(lambda: here.listener.connections == 0)
        writer.close()


async def test_expect_100_continue() -> None:
    head = HEAD + b"Content-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    async with street() as here:
        reader, writer = await here.connect()
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert [body for _, _, body in answers(await reader.read())] == [b"hello"]
        writer.close()


async def test_a_body_that_is_too_large_is_not_asked_for() -> None:
    head = HEAD + b"Content-Length: 5000000\r\nExpect: 100-continue\r\n\r\n"
    async with street() as here:
        # what comes next may be the body or a request: neither is read
        said = await here.talk(head, b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        assert statuses(said) == [413]
        assert here.probe.heads == []


async def test_a_request_is_never_taken_for_the_body_of_a_refused_one() -> None:
    request = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
    async with street() as here:
        here.probe.refusal = CallerError("no")
        head = HEAD + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(request)
        assert statuses(await here.talk(head, request, request)) == [400]


async def test_a_large_body_gets_a_whole_413_and_may_not_go_on() -> None:
    async with street() as here:
        reader, writer = await here.connect()
        writer.write(HEAD + b"Content-Length: 100000000\r\n\r\n")

        async def push() -> None:
            while True:
                writer.write(b"x" * 100_000)
                await writer.drain()

        pushing = asyncio.create_task(push())
        assert statuses(await reader.read()) == [413]
        await asyncio.wait([pushing])
        assert isinstance(pushing.exception(), ConnectionError)
        assert here.probe.bodies == []


async def test_a_small_rest_of_a_refused_body_keeps_the_connection() -> None:
    async with street() as here:
        here.probe.refusal = CallerError("no")
        said = await here.talk(HEAD + b"Content-Length: 5\r\n\r\n", b"hello" + HEAD + b"Content-Length: 2\r\n\r\nhi")
        assert statuses(said) == [400, 400]


async def test_a_connection_is_idle_once_the_rest_of_a_refused_body_has_come() -> None:
    async with street() as here:
        here.probe.refusal = CallerError("no")
        assert statuses(await here.talk(HEAD + b"Content-Length: 5\r\n\r\n", b"hello")) == [400]


async def test_no_time_runs_for_a_body_that_the_server_does_not_read() -> None:
    async with street(ConnectionLimits(body_timeout=0.03, min_rate=1e9, keep_alive_timeout=0.2)) as here:
        reader, writer = await here.connect()
        writer.write(b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\n")
        await here.probe.asked.wait()
        writer.write(HEAD + b"Content-Length: 400000\r\n\r\n" + b"x" * 200_000)
        await asyncio.sleep(0.15)  # five times what a body may take
        here.probe.pending[0].set_result(Response(200, (), b""))
        writer.write(b"x" * 200_000)
        assert statuses(await reader.read()) == [200, 200]
        writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        HEAD + b"Content-Length: 4, 4\r\n\r\nabcd",
        HEAD + b"Content-Length: +4\r\n\r\nabcd",
        HEAD + b"Content-Length: -4\r\n\r\nabcd",
        HEAD + b"Content-Length: 0x4\r\n\r\nabcd",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\nabcd",
        HEAD + b"Content-Length: \r\n\r\nabcd",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4 \r\nabcd\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\nabcd\n0\n\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcdef\r\n0\r\n\r\n",
        HEAD + b"X: b\r\n c\r\n\r\n",
        b"GET /echo HTTP/1.1\nHost: a\n\n",
        b"GET /echo HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nX: no host\r\n\r\n",
        b"GET /echo HTTP/1.7\r\nHost: a\r\n\r\n",
        b"get /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
    ],
)
async def test_what_is_no_request_gets_a_whole_400_and_the_end(request_bytes: bytes) -> None:
    # the second request must never be read: a front that took these bytes otherwise would be smuggling it
    async with street(ConnectionLimits(keep_alive_timeout=30, linger=0.3)) as here:
        said = await here.talk(request_bytes + b"GET /echo?smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        [(status, headers, body)] = answers(said)
        assert status == 400
        assert headers[b"connection"] == b"close"
        assert json.loads(body)["error"]["request_id"].encode() == headers[b"x-request-id"]
        assert not any(head.query == b"smuggled" for head in here.probe.heads)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET /echo\r\n\r\n", 505),
        (b"GET /echo HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
        (HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nabcd", 400),
    ],
)
async def test_what_is_not_spoken_here_is_said_so(request_bytes: bytes, status: int) -> None:
    async with street(ConnectionLimits(keep_alive_timeout=30, linger=0.3)) as here:
        assert statuses(await here.talk(request_bytes, b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")) == [status]
        assert here.probe.heads == []


async def test_an_offer_of_http_2_beside_a_request_is_passed_over() -> None:
    offer = (
        b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n"
    )
    async with street(ConnectionLimits(keep_alive_timeout=30)) as here:
        [(status, headers, _)] = answers(await here.talk(offer + b"\r\nGET /echo HTTP/1.1\r\nHost: a\r\n\r\n"))
        assert (status, headers[b"connection"]) == (200, b"close")


@pytest.mark.parametrize("at", [3, 14, 24])
async def test_http_2_is_told_in_http_2_to_speak_1_1(at: int) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    async with street() as here:
        said = await here.talk(preface[:at], preface[at:] or b"\0")
        assert said.startswith(bytes((0, 0, 0, 4)))  # an empty SETTINGS
        assert said[9:13] == bytes((0, 0, 35, 7))  # GOAWAY
        assert said[22:26] == bytes((0, 0, 0, 13))  # HTTP_1_1_REQUIRED


async def test_an_error_waits_for_the_answers_before_it() -> None:
    async with street() as here:
        reader, writer = await here.connect()
        writer.write(b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n")
        await here.probe.asked.wait()
        here.probe.pending[0].set_result(Response(200, (), b"first"))
        assert statuses(await reader.read()) == [200, 400]
        writer.close()


async def test_a_broken_chunk_ends_the_call_it_belongs_to() -> None:
    async with street() as here:
        said = await here.talk(HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n", b"zz\r\n")
        assert statuses(said) == [400]
        assert here.probe.bodies == []


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /echo?" + b"q" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /echo?" + b"q" * 100_000, 414),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nX: " + b"v" * 9000 + b"\r\n\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nX: " + b"v" * 100_000, 431),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\n" + b"N" * 100_000, 431),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 21 + b"\r\n", 431),
        (b"\r\n" * 50_000, 431),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"e" * 200_000, 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: v\r\n" * 5000, 431),
    ],
    ids=[
        "target",
        "endless target",
        "head",
        "endless value",
        "endless name",
        "fields",
        "lines",
        "extension",
        "trailer",
    ],
)
async def test_a_head_is_bounded(head: bytes, status: int) -> None:
    limits = ConnectionLimits(max_head=8192, max_target=2048, max_fields=20, linger=0.3, keep_alive_timeout=0.2)
    async with street(limits) as here:
        assert statuses(await here.talk(head)) == [status]


async def test_a_head_as_large_as_allowed_passes() -> None:
    limits = ConnectionLimits(max_head=8192, max_fields=20, keep_alive_timeout=0.1)
    async with street(limits) as here:
        head = b"GET /echo HTTP/1.1\r\nHost: a\r\nX: " + b"v" * 8100 + b"\r\n" + b"A: b\r\n" * 10 + b"\r\n"
        assert statuses(await here.talk(head[:5000], head[5000:])) == [200]


async def test_a_client_that_says_nothing_is_let_go() -> None:
    async with street(ConnectionLimits(first_byte_timeout=0.05)) as here:
        assert await here.talk() == b""
        assert here.drops == {"silent": 1}


@pytest.mark.parametrize("before", [b"", b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n"])
async def test_a_slow_head_gets_a_408(before: bytes) -> None:
    async with street(ConnectionLimits(head_timeout=0.05, linger=0.2)) as here:
        said = await here.talk(before + b"GET /echo HT")
        assert statuses(said)[-1] == 408
        assert here.drops == {"head_timeout": 1}


async def test_a_slow_body_gets_a_408_and_no_call() -> None:
    async with street(ConnectionLimits(body_timeout=0.05, linger=0.2)) as here:
        assert statuses(await here.talk(HEAD + b"Content-Length: 10\r\n\r\nabc")) == [408]
        assert here.probe.bodies == []
        assert here.drops == {"body_timeout": 1}


async def test_a_body_has_more_time_the_more_of_it_comes() -> None:
    limits = ConnectionLimits(body_timeout=0.02, min_rate=1000, keep_alive_timeout=0.05)
    async with street(limits) as here:
        pieces = [b"x" * 1000] * 30  # each buys a second
        said = await here.talk(HEAD + b"Content-Length: 30000\r\n\r\n" + pieces[0], *pieces[1:])
        assert statuses(said) == [200]


async def test_an_idle_connection_is_ended() -> None:
    async with street(ConnectionLimits(keep_alive_timeout=0.05)) as here:
        assert statuses(await here.talk(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")) == [200]


async def test_over_the_limit_a_client_gets_a_whole_503() -> None:
    async with street(ConnectionLimits(max_connections=2, linger=0.2)) as here:
        kept = [await here.connect() for _ in range(2)]
        for reader, writer in kept:
            writer.write(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        [(status, headers, body)] = answers(await here.talk(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"))
        assert (status, headers[b"retry-after"], b"limits.max_connections" in body) == (503, b"1", True)
        kept[0][1].close()
        await until(lambda: here.listener.connections <= 1)
        reader, writer = await here.connect()
        writer.write(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        kept[1][1].close()


async def test_a_crowd_over_the_limit_is_cut_off() -> None:
    async with street(ConnectionLimits(max_connections=1, linger=5, first_byte_timeout=5)) as here:
        crowd = await asyncio.gather(*(here.connect() for _ in range(120)))
        await until(lambda: sum(here.drops.values()) == 119)
        assert 32 <= here.drops["full"] <= 64  # those that are being made count as well
        for _, writer in crowd:
            writer.close()


async def test_a_client_that_leaves_ends_its_call() -> None:
    async with street() as here:
        _, writer = await here.connect()
        writer.write(b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\n")
        await here.probe.asked.wait()
        writer.transport.abort()
        async with asyncio.timeout(2):
            await here.probe.cancelled.wait()


async def test_a_client_that_leaves_ends_the_call_before_its_last() -> None:
    async with street() as here:
        _, writer = await here.connect()
        writer.write(b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\nGET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        await here.probe.asked.wait()
        writer.transport.abort()
        async with asyncio.timeout(2):
            await here.probe.cancelled.wait()
        assert len(here.probe.heads) == 1


async def test_a_client_that_leaves_mid_body_makes_no_call() -> None:
    async with street() as here:
        _, writer = await here.connect()
        writer.write(HEAD + b"Content-Length: 10\r\n\r\nabc")
        await until(lambda: here.app.metrics.in_flight)
        writer.transport.abort()
        await until(lambda: not here.app.metrics.in_flight)
        assert here.probe.bodies == []
        assert here.app.metrics.routes["/echo"].statuses == {499: 1}


async def test_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    async with street(ConnectionLimits(write_timeout=0.05)) as here:
        _, writer = await here.connect()
        writer.write(b"GET /echo?big=30000000 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: identity\r\n\r\n")
        await until(lambda: here.drops == {"slow_reader": 1})
        writer.close()


async def test_no_header_tells_what_the_server_is_made_of() -> None:
    async with street(QUICK) as here:
        for said in (
            await here.talk(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"),
            await here.talk(b"bad\r\n\r\n"),
        ):
            [(_, headers, _)] = answers(said)
            assert b"server" not in headers
            assert b"date" in headers
