"""A connection that becomes another protocol's: the WebSockets of a third-party library, on both kinds of listener."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from insula.edge.app import Application
from insula.edge.asgi import Receive, Scope, Send
from insula.edge.become import BECOME, Guest
from insula.edge.connection import Connection
from insula.edge.exchange import Asgi, Route
from insula.edge.lane import Lane
from insula.edge.limits import ConnectionLimits
from insula.edge.listener import Listener, bind
from insula.edge.rest import refusal
from insula.edge.routes import RouteTable
from tests.edge.conftest import Nothing, Probe, probe_app, statuses, until

LIMITS = ConnectionLimits(keep_alive_timeout=30, linger=0.2)
HANDSHAKE = (
    b"GET /ws?a=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
#: A text frame, "Hello", as a client masks it (RFC 6455, 5.7), and what comes back.
HELLO = bytes.fromhex("818537fa213d7f9f4d5158")
ECHOED = b"\x81\x05Hello"


class Echo:
    """The library's protocol, which does no I/O, as what a connection becomes."""

    def __init__(self, scope: Scope) -> None:
        self.protocol = ServerProtocol()
        self.shuts = 0
        self.deaf = False  # to the end of the listener
        lines = [b"GET %b HTTP/1.1" % scope["raw_path"], *(b": ".join(pair) for pair in scope["headers"])]
        self.protocol.receive_data(b"\r\n".join([*lines, b"", b""]))

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        [request] = self.protocol.events_received()
        assert isinstance(request, Request)
        self.protocol.send_response(self.protocol.accept(request))
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.protocol.receive_data(data)
        for frame in self.protocol.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.TEXT:
                self.protocol.send_text(frame.data)
            elif frame.opcode is Opcode.BINARY:
                self.protocol.send_binary(frame.data)
        self._flush()

    def eof_received(self) -> None:
        self.protocol.receive_eof()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        del self.transport

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def shutdown(self) -> None:
        self.shuts += 1
        if not self.deaf:
            self.protocol.send_close(1001)
            self._flush()

    def cut_off(self) -> bool:
        return True

    def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.transport.write(data)
            else:
                self.transport.close()


class House:
    """A listener whose `/ws` echoes frames; every other path is the probe's. `go` lets the application decide."""

    def __init__(self, lane: bool, limits: ConnectionLimits) -> None:
        self.public = probe_app(Probe())
        self.listener = Listener(
            self.app,
            bind("127.0.0.1", 0),
            limits,
            dropped=self.public.metrics.dropped,
            lane=Lane(self.public) if lane else None,
            upgrades=lambda target, protocol: (target.partition(b"?")[0], protocol) == (b"/ws", b"websocket"),
        )
        self.url = f"ws://127.0.0.1:{self.listener.port}/ws"
        self.go = asyncio.Event()
        self.go.set()
        self.asked: list[Callable[[Any], None]] = []
        self.made: list[Echo] = []
        self.refuses = False

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        become = scope.get("extensions", {}).get(BECOME)
        if become is None:
            await self.public(scope, receive, send)
            return
        self.asked.append(become)
        await self.go.wait()
        if self.refuses:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
        else:
            self.made.append(Echo(scope))
            become(self.made[-1])

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.listener.port)


@asynccontextmanager
async def house(lane: bool, limits: ConnectionLimits = LIMITS) -> AsyncIterator[House]:
    made = House(lane, limits)
    await made.listener.start()
    try:
        yield made
    finally:
        await made.listener.stop(0.0)
        made.public.close()


both = pytest.mark.parametrize("lane", [False, True], ids=["ordinary road", "lane"])


@both
async def test_a_third_party_library_echoes(lane: bool) -> None:
    async with house(lane) as here:
        async with connect(here.url) as client:
            for message in ("hello", b"\0" * 1_000_000, "", "\N{SNOWMAN}" * 1000):
                await client.send(message)
                assert await client.recv() == message
            await (await client.ping())
            assert here.listener.connections == 1
        await until(lambda: not here.listener.connections)
        async with connect(here.url) as client:  # others are as before
            await client.send("again")
            assert await client.recv() == "again"


@both
@pytest.mark.parametrize("before", [b"", b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nfirst"])
@pytest.mark.parametrize("cut", [len(HANDSHAKE), len(HANDSHAKE) - 1, len(HANDSHAKE) + 3, 30])
async def test_what_comes_behind_the_head_is_the_protocols(lane: bool, before: bytes, cut: int) -> None:
    async with house(lane) as here:
        reader, writer = await here.dial()
        stream = HANDSHAKE + HELLO
        writer.write(before + stream[:cut])
        if before:
            await reader.readuntil(b"first")
        for _ in range(5):
            await asyncio.sleep(0)
        writer.write(stream[cut:])
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(len(ECHOED)) == ECHOED
        writer.close()


@both
async def test_what_comes_while_the_application_decides_is_kept(lane: bool) -> None:
    async with house(lane) as here:
        here.go.clear()
        reader, writer = await here.dial()
        writer.write(HANDSHAKE)
        await until(lambda: here.asked)
        writer.write(HELLO)
        for _ in range(20):
            await asyncio.sleep(0)
        writer.write(HELLO)
        here.go.set()
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2 * len(ECHOED)) == ECHOED * 2
        writer.close()


@both
async def test_the_application_may_refuse(lane: bool) -> None:
    async with house(lane) as here:
        here.refuses = True
        reader, writer = await here.dial()
        writer.write(HANDSHAKE + HELLO)
        said = await reader.read()
        assert statuses(said) == [403]
        assert b"connection: close" in said
        with pytest.raises(RuntimeError, match="no longer"):
            here.asked[0](None)
        writer.close()


@both
@pytest.mark.parametrize(
    "request_bytes",
    [
        HANDSHAKE.replace(b"/ws", b"/echo"),
        HANDSHAKE.replace(b"WebSocket", b"smtp"),
        HANDSHAKE.replace(b"Host: a\r\n", b"Host: a\r\nContent-Length: 5\r\n") + b"hello",
        HANDSHAKE.replace(b"Host: a\r\n", b"Host: a\r\nTransfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
    ],
)
async def test_what_nobody_speaks_is_refused_as_ever(lane: bool, request_bytes: bytes) -> None:
    async with house(lane) as here:
        reader, writer = await here.dial()
        writer.write(request_bytes)
        assert statuses(await reader.read()) == [400]
        assert not here.asked
        writer.close()


@both
async def test_a_client_that_left_has_no_connection_to_give(lane: bool) -> None:
    async with house(lane) as here:
        here.go.clear()
        _, writer = await here.dial()
        writer.write(HANDSHAKE)
        await until(lambda: here.asked)
        writer.transport.abort()
        await until(lambda: not here.listener.connections)
        with pytest.raises(RuntimeError, match="no longer"):
            here.asked[0](None)
        here.refuses = True
        here.go.set()


@both
async def test_whatever_they_have_become_connections_count(lane: bool) -> None:
    async with house(lane, replace(LIMITS, max_connections=2)) as here:
        async with connect(here.url) as one, connect(here.url) as other:
            reader, writer = await here.dial()
            assert statuses(await reader.read()) == [503]
            writer.close()
            for client in (one, other):
                await client.send("still here")
                assert await client.recv() == "still here"
        await until(lambda: not here.listener.connections)
        async with connect(here.url):
            pass


@both
async def test_a_stop_says_goodbye(lane: bool) -> None:
    async with house(lane) as here, connect(here.url) as client:
        stopping = asyncio.create_task(here.listener.stop(5.0))
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        await stopping
        assert here.listener.connections == 0


@both
async def test_one_that_does_not_end_is_ended(lane: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insula.edge.listener.LAST_ANSWERS", 0.05)
    async with house(lane) as here:
        reader, writer = await here.dial()
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        here.made[0].deaf = True
        await here.listener.stop(0.05)
        assert here.made[0].shuts == 1
        assert await reader.read() == b""
        writer.close()


@both
async def test_a_protocol_leaves_nothing_for_the_collector(lane: bool) -> None:
    async with house(lane) as here:
        gc.collect()
        gc.disable()
        try:
            reader, writer = await here.dial()
            await until(lambda: here.listener.connections)
            [connection] = here.listener._shared.live
            assert isinstance(connection, Connection)
            before = weakref.ref(connection)
            del connection
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            here.asked.clear()
            await until(lambda: before() is None)
            [guest] = here.listener._shared.live
            assert isinstance(guest, Guest)
            gone = weakref.ref(guest)
            del guest
            here.made.clear()
            writer.close()
            await until(lambda: gone() is None)
        finally:
            gc.enable()


@both
async def test_a_route_may_lead_to_what_takes_the_connection(lane: bool) -> None:
    """Through the whole edge: the route says which protocols its path changes to, and the request is counted as 101."""

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][BECOME](Echo(scope))

    route = Route(Asgi(echo, refusal), "/ws", upgrades=frozenset({b"websocket"}))
    app = Application(RouteTable([(b"/ws", route)]), missing=Route(Nothing(), "missing", frozenset()))
    listener = Listener(app, bind("127.0.0.1", 0), LIMITS, lane=Lane(app) if lane else None, upgrades=app.upgrades)
    await listener.start()
    try:
        async with connect(f"ws://127.0.0.1:{listener.port}/ws?a=1") as client:
            await client.send("hello")
            assert await client.recv() == "hello"
            assert app.metrics.routes["/ws"].by_status() == {101: 1}
            assert app.metrics.in_flight == 0
        await until(lambda: not listener.connections)
    finally:
        await listener.stop(0.0)
        app.close()
