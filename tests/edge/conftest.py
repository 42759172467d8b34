"""A real listener on a free port, and a client that speaks bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from insula.edge.app import Application
from insula.edge.exchange import Answer, Answerer, Head, HttpError, Response, Route
from insula.edge.lane import Lane
from insula.edge.limits import ConnectionLimits
from insula.edge.listener import Listener, bind
from insula.edge.rest import refusal
from insula.edge.routes import RouteTable
from insula.errors import Code, InsulaError


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}


class Probe:
    """A handler that echoes the body, and does what its query says."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.bodies: list[bytes] = []
        self.pending: list[asyncio.Future[Response]] = []
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.refusal: InsulaError | None = None

    def prepare(self, head: Head) -> Answerer:
        if self.refusal is not None:
            raise self.refusal
        return self.answer

    def answer(self, head: Head, body: bytes) -> Answer:
        self.heads.append(head)
        self.bodies.append(body)
        if head.query == b"raise":
            raise RuntimeError("a secret of the server")
        if head.query == b"refuse":
            raise InsulaError("not now", code=Code.ABORTED, reason="busy", hint="later", retry_after=7)
        if head.query.startswith(b"big="):
            return Response(200, ((b"content-type", b"text/plain"),), b"x" * int(head.query[4:]))
        if head.query == b"later":
            future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda future: self.cancelled.set() if future.cancelled() else None)
            self.pending.append(future)
            self.asked.set()
            return future
        return Response(200, ((b"content-type", b"application/octet-stream"),), body)

    def refuse(self, head: Head, error: InsulaError) -> Response:
        return refusal(head, error)


class Nothing(Probe):
    """What is at every other path."""

    def prepare(self, head: Head) -> Answerer:
        raise HttpError("nothing here", 404, code=Code.NOT_FOUND)


class Street:
    """A listener, its application and its probe."""

    def __init__(self, listener: Listener, app: Application, probe: Probe, lane: Lane | None = None) -> None:
        self.listener = listener
        self.app = app
        self.probe = probe
        self.lane = lane

    @property
    def drops(self) -> dict[str, int]:
        return dict(self.app.metrics.drops)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.listener.host, self.listener.port)

    async def talk(self, *pieces: bytes) -> bytes:
        """Everything that the server says until it ends the connection. Pieces are sent one read apart; what is sent after
        that end meets a reset, which takes nothing of what was said."""
        reader, writer = await self.connect()
        said = bytearray()

        async def listen() -> None:
            with suppress(ConnectionError):
                while piece := await reader.read(1 << 16):
                    said.extend(piece)

        listening = asyncio.create_task(listen())
        try:
            for piece in pieces:
                with suppress(ConnectionError, RuntimeError):  # uvloop's word for a transport that is gone
                    writer.write(piece)
                    await writer.drain()
                await turns()
            async with asyncio.timeout(5):
                await listening
            return bytes(said)
        finally:
            listening.cancel()
            writer.close()


async def turns() -> None:
    """Lets the loop, which is the server's too, send what a client wrote, read it and work on it."""
    for _ in range(8):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Waits for what no event tells; fails after five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is looked at belongs to the product
            await asyncio.sleep(0.001)


#: Short enough for a test, long enough for a busy machine.
QUICK = ConnectionLimits(keep_alive_timeout=0.15, linger=0.3)


def probe_app(probe: Probe, max_body: int = 1 << 20) -> Application:
    route = Route(probe, "/echo", frozenset(("GET", "POST")), max_body=max_body, timeout=5.0)
    return Application(RouteTable([(b"/echo", route)]), missing=Route(Nothing(), "missing", frozenset()))


class Road:
    """Which road `street` opens unless it is told."""

    lane = False


@pytest.fixture
def either_road(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sets the road of every street of a test; ROADS gives it both."""
    Road.lane = request.param == "lane"
    yield
    Road.lane = False


#: For a module whose tests hold over both roads of the edge.
ROADS = [
    pytest.mark.usefixtures("either_road"),
    pytest.mark.parametrize("either_road", ["ordinary", "lane"], indirect=True),
]


@asynccontextmanager
async def street(
    limits: ConnectionLimits = QUICK, max_body: int = 1 << 20, *, lane: bool | None = None
) -> AsyncIterator[Street]:
    probe = Probe()
    app = probe_app(probe, max_body)
    fast = Lane(app) if (Road.lane if lane is None else lane) else None
    listener = Listener(app, bind("127.0.0.1", 0), limits, dropped=app.metrics.dropped, lane=fast)
    await listener.start()
    try:
        yield Street(listener, app, probe, fast)
    finally:
        await listener.stop(0.0)
        app.close()


def answers(data: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """The answers in a stream of bytes: status, headers, body. Fails where one is not whole."""
    found = []
    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        assert end, data
        first, *lines = head.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 "), first
        headers = dict(line.split(b": ", 1) for line in lines)
        size = int(headers.get(b"content-length", b"0"))
        assert len(rest) >= size, "an answer was cut off"
        found.append((int(first.split(b" ")[1]), headers, rest[:size]))
        data = rest[size:]
    return found


def statuses(data: bytes) -> list[int]:
    return [status for status, _, _ in answers(data)]
