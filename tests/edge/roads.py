"""Two listeners with the same application, one of them with the lane, and what both say to the same bytes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from insula.edge.exchange import Answer, Answerer, Head, HttpError, Response, Route
from insula.edge.limits import ConnectionLimits
from insula.edge.rest import refusal
from insula.edge.routes import RouteTable
from insula.errors import CallerError, Code, GuestError, InsulaError
from tests.edge.conftest import Street, street

_DATE = re.compile(rb"(?m)^date: [^\r]*")
_MADE_ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")

TEXT = (b"content-type", b"text/plain")
#: The fields of most answers: the same tuple each time, as a gateway has it, and as the lane knows it again by.
PLAIN = (TEXT,)


class Told:
    """A handler that does what the body says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes]] = []
        self.peers: set[tuple[str, str]] = set()
        self.tasks: list[asyncio.Task[Any] | None] = []
        self.prepared = 0

    def prepare(self, head: Head) -> Answerer:
        self.prepared += 1
        kind = head.get(b"content-type") or b""
        if kind == b"text/csv":
            raise HttpError("no tables", 415, fields=((b"accept-post", b"text/plain"),))
        if kind == b"text/broken":
            raise RuntimeError("cannot prepare")
        return lambda head, body: self.answer(head, kind, body)

    def answer(self, head: Head, kind: bytes, body: bytes) -> Answer:
        assert kind == (head.get(b"content-type") or b"")
        self.asked.append((head.path, tuple(head.headers), body))
        self.peers.add((head.peer, head.scheme))
        self.tasks.append(asyncio.current_task())
        word, _, number = body.partition(b" ")
        if word == b"later":
            answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(
                int(number or 5) / 1000, _answer, answer, Response(200, PLAIN, b"at last")
            )
            return answer
        if word == b"trap":
            raise GuestError("the guest trapped")
        if word == b"raise":
            raise RuntimeError("a secret")
        if word == b"refuse":
            raise InsulaError("not now", code=Code.UNAUTHENTICATED, reason="busy", retry_after=7)
        if word == b"json":
            raise CallerError("not JSON")
        if word == b"bad":
            return Response(200, ((b"x-bad", b"a\r\nb"),), b"")
        if word == b"status":
            return Response(int(number), PLAIN, b"a status")
        if word == b"big":
            return Response(200, (TEXT, (b"X-Upper", b"1")), b"x" * int(number))
        if word == b"long":
            return Response(200, PLAIN, b"x" * int(number))
        if word == b"many":
            return Response(200, tuple((b"x-%d" % n, b"v") for n in range(int(number))), b"many")
        if word == b"none":
            return Response(200, PLAIN, None)  # type: ignore[arg-type]
        return Response(200, PLAIN, body)

    def refuse(self, head: Head, error: InsulaError) -> Response:
        return refusal(head, error)


def _answer(future: asyncio.Future[Response], response: Response) -> None:
    if not future.done():
        future.set_result(response)


def told_table(told: Told) -> RouteTable:
    """`/do` takes a POST of at most 100,000 bytes, `/read` a GET alone."""
    do = Route(told, "/do", frozenset(("POST",)), max_body=100_000, timeout=5.0)
    return RouteTable([(b"/do", do), (b"/read", Route(told, "/read"))])


class Roads:
    """The ordinary road and the lane."""

    def __init__(self, ordinary: Street, lane: Street, told: tuple[Told, Told]) -> None:
        self.both = (ordinary, lane)
        self.ordinary, self.lane = ordinary, lane
        self.told = told

    async def talk(self, *pieces: bytes) -> tuple[bytes, bytes]:
        """What each says, with dates and ids that it made left out."""
        for told in self.told:
            told.asked.clear()
        one, other = await asyncio.gather(*(road.talk(*pieces) for road in self.both))
        return neutral(one), neutral(other)

    async def same(self, *pieces: bytes) -> bytes:
        """What both say; fails where that is not the same, or where their handlers were asked something else."""
        one, other = await self.talk(*pieces)
        assert one == other
        assert self.told[0].asked == self.told[1].asked
        return one


def neutral(said: bytes) -> bytes:
    """An answer without what differs from one run to the next."""
    return _MADE_ID.sub(b"0" * 32, _DATE.sub(b"date: D", said))


@asynccontextmanager
async def roads(limits: ConnectionLimits) -> AsyncIterator[Roads]:
    told = (Told(), Told())
    async with AsyncExitStack() as stack:
        streets = [await stack.enter_async_context(street(limits, lane=lane)) for lane in (False, True)]
        for road, handler in zip(streets, told, strict=True):
            road.app.table = told_table(handler)
        yield Roads(streets[0], streets[1], told)


def post(body: bytes = b"hello", fields: bytes = b"", path: bytes = b"/do", version: bytes = b"1.1") -> bytes:
    """A POST as a client writes it."""
    head = b"POST %b HTTP/%b\r\nHost: a\r\nContent-Type: text/plain\r\n%b" % (path, version, fields)
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def chunked(body: bytes) -> bytes:
    return (
        b"POST /do HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"")
        + b"0\r\n\r\n"
    )


CLOSE = post(b"bye", b"Connection: close\r\n")
