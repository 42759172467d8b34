"""The ASGI application of the public port: the ordinary road of every request.

The order is the policy. The head gets its request id and its route; what HTTP itself refuses is refused; the checks of
admission and then the protocol may refuse by the head alone; only then is the body read, within the route's bound, and
only then inflated, within the same bound; then the handler answers. Nothing is read or inflated for someone who may not
call.

An answer that is not there yet is waited for as long as the route allows, and given up when the client leaves. The fast
lane has the same table, checks and numbers, and hands over here what it has begun and cannot finish.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from insula.edge.admission import admit
from insula.edge.answers import THREAD_FROM, checked, failed, finished, negotiated
from insula.edge.asgi import App, Receive, Scope, Send
from insula.edge.backlog import Backlog
from insula.edge.body import ClientGoneError, check_length, inflate_body, read_body
from insula.edge.compression import codings_of
from insula.edge.exchange import Answer, Answerer, Check, Head, HttpError, Response, Route
from insula.edge.metrics import Metrics
from insula.edge.request_id import request_id_of
from insula.edge.routes import RouteTable
from insula.errors import Code, DeadlineError, InsulaError, UnavailableError

#: Bodies of this size and more are counted while they wait for their answer.
COUNTED_FROM = 65_536
#: Seconds over a route's timeout before the edge answers in the place of a service that does not keep it.
SLACK = 1.0
#: What a request that its client gave up is counted as.
CLIENT_GONE = 499


class Application:
    """`table` is swapped whole by assignment; requests under way keep the route that they have found.

    `missing` is the route of what has none; its handler refuses. `checks` are asked in order at every request, and are
    swapped whole as well. Whoever keeps something that follows from the two is told of a new one by `on_change`. `backlog`
    bounds what has come of bodies that are not whole; whole ones that wait for their answer have the same bound, and what
    is above it is refused.
    """

    def __init__(
        self,
        table: RouteTable,
        *,
        missing: Route,
        checks: tuple[Check, ...] = (),
        metrics: Metrics | None = None,
        backlog: Backlog | None = None,
    ) -> None:
        self._checks = checks
        self.backlog = backlog or Backlog()
        self._in_hand = 0  # bytes of counted bodies that wait for their answer
        self.missing = missing
        self.metrics = metrics or Metrics()
        self._table = table
        self._told: list[Callable[[], None]] = []

    @property
    def table(self) -> RouteTable:
        """Where paths lead now."""
        return self._table

    @table.setter
    def table(self, table: RouteTable) -> None:
        self._table = table
        labels = {route.label for route in table.exact.values()} | {route.label for _, route in table.prefixes}
        self.metrics.keep(labels | {self.missing.label})
        self._tell()

    @property
    def checks(self) -> tuple[Check, ...]:
        """The rules of admission."""
        return self._checks

    @checks.setter
    def checks(self, checks: tuple[Check, ...]) -> None:
        self._checks = checks
        self._tell()

    def _tell(self) -> None:
        for tell in self._told:
            tell()

    def on_change(self, tell: Callable[[], None]) -> None:
        """Calls `tell` each time there is a new table, or new checks, before the next request is looked at."""
        self._told.append(tell)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] != "websocket":
                raise NotImplementedError(f"the public application has no {scope['type']} scope")
            await send({"type": "websocket.close", "code": 1008})
            return
        head = head_of(scope)
        route = self._table.find(head.path) or self.missing
        bare = head.method == "HEAD" and "HEAD" not in route.methods
        if bare:
            head.method = "GET"
        taken = Taken()
        await self._give(head, route, self._ask(head, route, receive, taken), taken, send, bare=bare)

    def finishing(self, head: Head, route: Route, answer: Answer, bytes_in: int) -> App:
        """An application that finishes one request which the fast lane has begun: its answer is not there yet, or not yet
        as it goes out."""

        async def finish(_: Scope, receive: Receive, send: Send) -> None:
            await self._give(head, route, _arrived(answer, route, receive), Taken(bytes_in), send)

        return finish

    async def _give(
        self, head: Head, route: Route, answer: Awaitable[Response], taken: Taken, send: Send, *, bare: bool = False
    ) -> None:
        """Sends the answer once it is there, and counts the request; `bare` leaves the body out."""
        metrics = self.metrics
        metrics.in_flight += 1
        status, sent = CLIENT_GONE, 0
        try:
            response = await _whole(head, route, answer)
            varies, coding = negotiated(head, response)
            if coding is not None and len(response.body) >= THREAD_FROM:
                added, body = await asyncio.to_thread(finished, head, response, varies, coding)
            else:
                added, body = finished(head, response, varies, coding)
            status, sent = response.status, len(body)
            headers = [*response.headers, *added]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if bare else body})
        except ClientGoneError:
            pass
        finally:
            metrics.in_flight -= 1
            metrics.route(route.label).record(status, time.monotonic() - head.received, taken.bytes, sent)

    async def _ask(self, head: Head, route: Route, receive: Receive, taken: Taken) -> Response:
        methods = route.methods
        if methods and head.method not in methods:
            allow = (b"allow", b", ".join(sorted(method.encode() for method in _with_implied(methods))))
            if head.method == "OPTIONS":
                return Response(204, (allow,))
            takes = f"it takes {' and '.join(sorted(methods))}"
            if "POST" in methods:
                takes += "; with curl, -d '{}' makes a POST"
            raise HttpError(f"this path does not answer {head.method}", 405, hint=takes, fields=(allow,))
        error = admit(self.checks, head, route)
        if error is not None:
            raise error
        answer = route.handler.prepare(head)
        error = check_length(head, route.max_body)
        if error is not None:
            raise error
        codings = codings_of(head.get(b"content-encoding")) if route.inflate else []
        body = b""
        if head.get(b"content-length") is not None or head.get(b"transfer-encoding") is not None:
            body = await read_body(receive, route.max_body, self.backlog, route.tenant)
            taken.bytes = len(body)
            if codings:
                body = await inflate_body(codings, body, route.max_body)
        if len(body) < COUNTED_FROM:
            return await _arrived(answer(head, body), route, receive)
        return await self._counted(head, answer, body, route, receive)

    async def _counted(self, head: Head, answer: Answerer, body: bytes, route: Route, receive: Receive) -> Response:
        """The answer to a request whose body is large enough to be counted, where there is room for it."""
        size = len(body)
        if self._in_hand and self._in_hand + size > self.backlog.most:
            raise UnavailableError(
                "the server works on as many large requests as it can hold",
                reason="backlog_full",
                hint="try again in a moment",
                retry_after=1.0,
            )
        self._in_hand += size
        try:
            return await _arrived(answer(head, body), route, receive)
        finally:
            self._in_hand -= size


class Taken:
    """How much of a request's body came, for whoever counts it."""

    __slots__ = ("bytes",)

    def __init__(self, size: int = 0) -> None:
        self.bytes = size


async def _whole(head: Head, route: Route, answer: Awaitable[Response]) -> Response:
    """The answer to one request, whatever happens; ClientGoneError where nobody is there to take it."""
    try:
        return checked(head, route, await answer)
    except ClientGoneError:
        raise
    except asyncio.CancelledError:
        # the server stops and this request has had its grace; its client still gets a whole answer
        return failed(head, route, UnavailableError("the server stopped before there was an answer", retry_after=1.0))
    except Exception as error:
        return failed(head, route, error)


def head_of(scope: Scope) -> Head:
    """The head of a request that came as an ASGI scope, with its request id."""
    headers: list[tuple[bytes, bytes]] = list(scope["headers"])
    sent = None
    for name, value in headers:
        if name == b"x-request-id":
            sent = value
            break
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    client = scope.get("client")
    return Head(
        scope["method"],
        path,
        scope["query_string"],
        headers,
        peer=client[0] if client else "",
        scheme=scope["scheme"],
        http_version=scope["http_version"],
        request_id=request_id_of(sent),
        received=time.monotonic(),
    )


def _with_implied(methods: frozenset[str]) -> frozenset[str]:
    return methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())


async def _arrived(answer: Answer, route: Route, receive: Receive) -> Response:
    """The answer when it is there; it is given up when the client leaves or the route's time and a little more is over."""
    if isinstance(answer, Response):
        return answer
    deadline = time.monotonic() + route.timeout + SLACK
    watcher: asyncio.Future[Any] = asyncio.ensure_future(receive())
    try:
        while True:
            await asyncio.wait((answer, watcher), timeout=deadline - time.monotonic(), return_when="FIRST_COMPLETED")
            if answer.done():
                if answer.cancelled():
                    raise InsulaError("the call was cancelled", code=Code.CANCELED)
                return answer.result()
            if not watcher.done():
                raise DeadlineError("the call's time was over before there was an answer")
            if watcher.result()["type"] == "http.disconnect":
                raise ClientGoneError
            watcher = asyncio.ensure_future(receive())
    finally:
        watcher.cancel()
        if not answer.done():
            answer.cancel()
