"""The ASGI application of a port: the ordinary road of every request.

The order is the policy. The head gets its request id and its route; the rules of admission may refuse, or wait; what HTTP
itself refuses is refused, and then the protocol may refuse by the head alone; only then is the body read, within the
route's bound, and only then inflated, within the same bound; then the handler answers. Nothing is read or inflated for
someone who may not call. Where the route leads to an ASGI application, that takes over behind admission (`streams.py`).

An answer that is not there yet is waited for as long as the route allows, and given up when the client leaves. The fast
lane has the same table, rules and observers, and hands over here a request that a rule has to wait for, and an answer that
is compressed in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from insula.edge.admission import Rule, Waiting, enter, waited
from insula.edge.answers import THREAD_FROM, CutOffError, checked, failed, finished, negotiated
from insula.edge.asgi import App, Receive, Scope, Send, sent_whole
from insula.edge.backlog import Backlog
from insula.edge.body import ClientGoneError, check_length, inflate_body, read_body
from insula.edge.compression import codings_of
from insula.edge.exchange import Answer, Answerer, Asgi, Head, Later, Response, Route
from insula.edge.hand import COUNTED_FROM, Hand
from insula.edge.intake import Intake
from insula.edge.metrics import Metrics
from insula.edge.observing import CLIENT_GONE, Observer, RouteObserver, answered, observing
from insula.edge.request_id import request_id_of
from insula.edge.routes import RouteTable
from insula.edge.sharing import Shared
from insula.edge.streams import Stream
from insula.edge.turns import Turns
from insula.errors import Code, DeadlineError, InsulaError, UnavailableError
from insula.offload import Offload
from insula.shares import Shares

T = TypeVar("T")

#: Seconds that a large answer waits to be compressed.
COMPRESSED_WITHIN = 2.0
#: Seconds over a route's timeout before the edge answers in the place of a service that does not keep it.
SLACK = 1.0


class Application:
    """`table` is swapped whole by assignment; requests under way keep the route that they have found.

    `missing` is the route of what has none; its handler refuses. `rules` are asked in order at every request, and are
    swapped whole as well. A part that keeps something that follows from the two is told of a new one by `on_change`.
    `metrics`, and then those that `observe` was given, see each answered request once.
    `backlog` bounds what has come of bodies that are not whole. Whole ones have the same bound until their answer is there;
    each service has its share of that, of the threads of `offload`, and of the turns in which handlers get large bodies.
    """

    def __init__(
        self,
        table: RouteTable,
        *,
        missing: Route,
        rules: tuple[Rule, ...] = (),
        metrics: Metrics | None = None,
        backlog: Backlog | None = None,
    ) -> None:
        self._rules = rules
        self.backlog = backlog or Backlog()
        self.in_hand: Shares[str] = Shares(self.backlog.most)  # bytes of large bodies that are worked on, by tenant
        self.offload = Offload()
        self.turns = Turns()
        self.intake = Intake()
        self.missing = missing
        self.metrics = metrics or Metrics()
        self.observers: tuple[Observer, ...] = (self.metrics,)
        self._table = table
        self._told: list[Callable[[], None]] = []

    @property
    def table(self) -> RouteTable:
        """Where paths lead now."""
        return self._table

    @table.setter
    def table(self, table: RouteTable) -> None:
        self._table = table
        self.metrics.keep(table.labels, self.missing.label)
        self._tell()

    def changed(self, gone: Iterable[tuple[bytes, Route]], come: Iterable[tuple[bytes, Route]]) -> Callable[[], None]:
        """Makes the table without some paths, with their routes, and with others; costs what changes. What it returns puts
        that table in place. CallerError where a path is taken."""
        gone = tuple(gone)
        table = self._table.changed(gone, come)

        def settle() -> None:
            self._table = table
            self.metrics.forget({route.label for _, route in gone} - table.labels.keys())
            self._tell()

        return settle

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of admission."""
        return self._rules

    @rules.setter
    def rules(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._tell()

    def observe(self, observer: Observer) -> None:
        """Adds an observer, behind the others."""
        self.observers = (*self.observers, observer)
        self._tell()

    def observing(self, route: Route) -> tuple[RouteObserver, ...]:
        """Those that see the answers of a route, the metrics' first."""
        return observing(self.observers, route)

    def _tell(self) -> None:
        for tell in self._told:
            tell()

    def on_change(self, tell: Callable[[], None]) -> None:
        """Calls `tell` each time there is a new table, rule or observer, before the next request is looked at."""
        self._told.append(tell)

    def upgrades(self, target: bytes, protocol: bytes) -> bool:
        """Whether the route of a request's target may have its connection become a protocol's."""
        route = self._table.find(target.partition(b"?")[0])
        return route is not None and protocol in route.upgrades

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] != "websocket":
                raise NotImplementedError(f"an application of the edge has no {scope['type']} scope")
            await send({"type": "websocket.close", "code": 1008})
            return
        head = head_of(scope)
        route = self._table.find(head.path) or self.missing
        if isinstance(route.handler, Shared):
            route = route.handler.of(head) or route
        bare = head.method == "HEAD" and "HEAD" not in route.methods
        if bare:
            head.method = "GET"
        observers = self.observing(route)
        if isinstance(route.handler, Asgi):
            await self._stream(
                head, route, route.handler.app, observers, scope, Stream(head, route, receive, send, bare=bare)
            )
            return
        taken = Taken()
        await self._give(head, route, observers, self._ask(head, route, receive, taken), taken, send, bare=bare)

    async def _stream(
        self,
        head: Head,
        route: Route,
        app: App,
        observers: tuple[RouteObserver, ...],
        scope: Scope,
        stream: Stream,
    ) -> None:
        metrics = self.metrics
        metrics.in_flight += 1
        try:
            await stream.run(app, scope, enter(self._rules, head, route))
        finally:
            metrics.in_flight -= 1
            answered(observers, head, stream.status, stream.bytes_in, stream.bytes_out)

    def finishing(
        self, head: Head, route: Route, observers: tuple[RouteObserver, ...], answer: Response, bytes_in: int
    ) -> App:
        """An application that finishes one request of the fast lane, whose answer is to be compressed in a thread."""

        async def finish(_: Scope, receive: Receive, send: Send) -> None:
            await self._give(head, route, observers, self._arrived(answer, route, receive), Taken(bytes_in), send)

        return finish

    def waiting(
        self,
        head: Head,
        route: Route,
        observers: tuple[RouteObserver, ...],
        waiting: Waiting,
        answer: Answerer,
        body: bytes,
    ) -> App:
        """An application that waits for the rules of one request of the fast lane, and then answers it."""

        async def admitted(receive: Receive) -> Response:
            await _awaited(asyncio.ensure_future(waited(waiting, head, route)), route, receive)
            await self._turn(route, receive)
            return await self._arrived(answer(head, body), route, receive)

        async def finish(_: Scope, receive: Receive, send: Send) -> None:
            await self._give(head, route, observers, admitted(receive), Taken(len(body)), send)

        return finish

    async def _give(
        self,
        head: Head,
        route: Route,
        observers: tuple[RouteObserver, ...],
        answer: Awaitable[Response],
        taken: Taken,
        send: Send,
        *,
        bare: bool = False,
    ) -> None:
        """Sends the answer once it is there, and tells the `observers` of it: those from when the route was found, since it
        may leave the table meanwhile. `bare` leaves the body out."""
        metrics = self.metrics
        metrics.in_flight += 1
        status, sent = CLIENT_GONE, 0
        try:
            response = await _whole(head, route, answer)
            varies, coding = negotiated(head, response)
            if coding is not None and len(response.body) >= THREAD_FROM:
                added, body = await self._compressed(head, route, response, varies, coding)
            else:
                added, body = finished(head, response, varies, coding)
            status, sent = response.status, len(body)
            headers = [*response.headers, *added]
            await sent_whole(send, {"type": "http.response.start", "status": status, "headers": headers})
            await sent_whole(send, {"type": "http.response.body", "body": b"" if bare else body})
        except ClientGoneError:
            pass
        finally:
            metrics.in_flight -= 1
            answered(observers, head, status, taken.bytes, sent)

    async def _compressed(
        self, head: Head, route: Route, response: Response, varies: bool, coding: bytes
    ) -> tuple[tuple[tuple[bytes, bytes], ...], bytes]:
        """The headers and body of a large answer. It is not compressed if its service has used up its share of the
        threads' queue, if no thread is done with it in time, if the system gives none, or if the server stops meanwhile."""
        if self.offload.has_room(route.tenant):
            try:
                async with asyncio.timeout(COMPRESSED_WITHIN):
                    return await self.offload.run(route.tenant, finished, head, response, varies, coding)
            except (TimeoutError, UnavailableError, asyncio.CancelledError):
                pass
        return finished(head, response, varies, None)

    async def _ask(self, head: Head, route: Route, receive: Receive, taken: Taken) -> Response:
        handler = route.handler
        admitted = await enter(self._rules, head, route)
        if admitted is not None:
            return admitted
        assert not isinstance(handler, Asgi | Shared)
        answer = handler.prepare(head)
        error = check_length(head, route.max_body, route.bound)
        if error is not None:
            raise error
        codings = codings_of(head.get(b"content-encoding")) if route.inflate else []
        if head.get(b"content-length") is None and head.get(b"transfer-encoding") is None:
            await self._turn(route, receive)
            return await self._arrived(answer(head, b""), route, receive)
        body = await read_body(receive, route.max_body, self.backlog, route.tenant, route.bound)
        taken.bytes = len(body)
        hand = Hand(self.in_hand, route.tenant)
        try:
            hand.has(len(body))
            await self._turn(route, receive)
            if codings:
                run = partial(self.offload.run, route.tenant)
                body = await inflate_body(
                    codings, body, route.max_body, lambda *call: _awaited(run(*call), route, receive)
                )
                hand.has(len(body))
            if len(body) >= COUNTED_FROM:
                wait = self.turns.enter(route.tenant, len(body))
                if wait is not None:
                    await _awaited(wait, route, receive)
            return await self._arrived(answer(head, body), route, receive)
        finally:
            hand.has(0)

    async def _arrived(self, answer: Answer, route: Route, receive: Receive) -> Response:
        """The answer when it is there, as `_awaited`."""
        while not isinstance(answer, Response):
            waited = answer.waited if isinstance(answer, Later) else answer
            await _awaited(self.intake.after(route.tenant, waited), route, receive)
            if waited.cancelled():
                raise InsulaError("the call was cancelled", code=Code.CANCELED)
            made = waited.result()
            answer = answer.finish(made) if isinstance(answer, Later) else made
        return answer

    async def _turn(self, route: Route, receive: Receive) -> None:
        """Waits until this turn of the loop has time for a request of this service."""
        wait = self.intake.turn(route.tenant)
        if wait is not None:
            await _awaited(wait, route, receive)

    def close(self) -> None:
        """Ends the threads of the edge."""
        self.offload.close()


class Taken:
    """The bytes of a request's body that came, for the metrics."""

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
        return failed(head, route, CutOffError())
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
    prefix = scope.get("root_path", "")
    if prefix:  # below an application of somebody else's
        rest = path.removeprefix(quote(prefix.rstrip("/")).encode())
        path = rest if rest.startswith(b"/") else b"/" + rest
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


async def _awaited(work: asyncio.Future[T], route: Route, receive: Receive) -> T:
    """The result of `work`. The work is cancelled when the client leaves (ClientGoneError), or when the route's timeout and
    `SLACK` have passed (DeadlineError)."""
    deadline = time.monotonic() + route.timeout + SLACK
    watcher: asyncio.Future[Any] = asyncio.ensure_future(receive())
    try:
        while True:
            await asyncio.wait((work, watcher), timeout=deadline - time.monotonic(), return_when="FIRST_COMPLETED")
            if work.done():
                if work.cancelled():
                    raise InsulaError("the call was cancelled", code=Code.CANCELED)
                return work.result()
            if not watcher.done():
                raise DeadlineError("the call's time was over before there was an answer")
            if watcher.result()["type"] == "http.disconnect":
                raise ClientGoneError
            watcher = asyncio.ensure_future(receive())
    finally:
        watcher.cancel()
        if not work.done():
            work.cancel()
