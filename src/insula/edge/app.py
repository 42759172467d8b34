"""The ASGI application of the public port: the ordinary road of every request.

The order is the policy. The head gets its request id and its route; what HTTP itself refuses is refused; the checks of
admission and then the protocol may refuse by the head alone; only then is the body read, within the route's bound, and
only then inflated, within the same bound; then the handler answers. Nothing is read or inflated for someone who may not
call.

An answer that is not there yet is waited for as long as the route allows, and given up when the client leaves. What goes
wrong in here or in a handler becomes a whole 500 in the protocol's own shape, and the log has the rest under the request
id. An answer is checked whole before its first byte is written, so that no guest can tear a connection with a header.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from urllib.parse import quote

from insula.edge.admission import admit
from insula.edge.asgi import Receive, Scope, Send
from insula.edge.body import ClientGoneError, check_length, inflate_body, read_body
from insula.edge.compression import CODINGS, codings_of, preferred
from insula.edge.exchange import Check, Head, HttpError, Response, Route
from insula.edge.fields import fault
from insula.edge.metrics import Metrics
from insula.edge.request_id import request_id_of
from insula.edge.rest import refusal
from insula.edge.routes import RouteTable
from insula.errors import Code, DeadlineError, GuestError, InsulaError, UnavailableError

_log = logging.getLogger("insula.edge")

#: A body of an answer is compressed from this size on, and in a thread from the second.
COMPRESSED_FROM = 1024
THREAD_FROM = 65_536
#: Seconds over a route's timeout before the edge answers in the place of a service that does not keep it.
SLACK = 1.0
#: What a request that its client gave up is counted as.
CLIENT_GONE = 499

_COMPRESSIBLE = (
    b"text/",
    b"application/json",
    b"application/proto",
    b"application/problem+json",
    b"application/javascript",
    b"application/xml",
    b"application/openmetrics-text",
    b"image/svg+xml",
)
_BODILESS = (204, 304)


class Application:
    """`table` is swapped whole by assignment; requests under way keep the route that they have found.

    `missing` is the route of what has none; its handler refuses. `checks` are asked in order at every request.
    """

    def __init__(
        self, table: RouteTable, *, missing: Route, checks: tuple[Check, ...] = (), metrics: Metrics | None = None
    ) -> None:
        self.checks = checks
        self.missing = missing
        self.metrics = metrics or Metrics()
        self._table = table

    @property
    def table(self) -> RouteTable:
        """Where paths lead now."""
        return self._table

    @table.setter
    def table(self, table: RouteTable) -> None:
        self._table = table
        labels = {route.label for route in table.exact.values()} | {route.label for _, route in table.prefixes}
        self.metrics.keep(labels | {self.missing.label})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] != "websocket":
                raise NotImplementedError(f"the public application has no {scope['type']} scope")
            await send({"type": "websocket.close", "code": 1008})
            return
        head = head_of(scope)
        route = self._table.find(head.path) or self.missing
        metrics = self.metrics
        metrics.in_flight += 1
        taken = Taken()
        status, sent = CLIENT_GONE, 0
        try:
            bare = head.method == "HEAD" and "HEAD" not in route.methods
            if bare:
                head.method = "GET"
            response = await self._respond(head, route, receive, taken)
            headers, body = await _finish(head, response)
            status, sent = response.status, len(body)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if bare else body})
        except ClientGoneError:
            pass
        finally:
            metrics.in_flight -= 1
            metrics.route(route.label).record(status, time.monotonic() - head.received, taken.bytes, sent)

    async def _respond(self, head: Head, route: Route, receive: Receive, taken: Taken) -> Response:
        """The answer to one request, whatever happens; ClientGoneError where nobody is there to take it."""
        try:
            response = await self._ask(head, route, receive, taken)
            wrong = fault(response.headers)
            if wrong is None and not 200 <= response.status <= 599:
                wrong = f"its status {response.status} is not one of an answer"
            if wrong is None:
                return response
            _log.error("%s gave an answer that cannot be sent: %s (request %s)", route.label, wrong, head.request_id)
            error: InsulaError = GuestError("the service gave an answer that cannot be sent")
        except InsulaError as raised:
            error = raised
        except ClientGoneError:
            raise
        except asyncio.CancelledError:
            # the server stops and this request has had its grace; its client still gets a whole answer
            error = UnavailableError("the server stopped before there was an answer", retry_after=1.0)
        except Exception:
            _log.exception("%s failed (request %s)", route.label, head.request_id)
            error = InsulaError("the server failed to answer", hint="the server's log has more under the request id")
        return _refuse(head, route, error)

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
        error = admit(self.checks, head, route) or route.handler.admit(head) or check_length(head, route.max_body)
        if error is not None:
            raise error
        codings = codings_of(head.get(b"content-encoding")) if route.inflate else []
        body = b""
        if head.get(b"content-length") is not None or head.get(b"transfer-encoding") is not None:
            body = await read_body(receive, route.max_body)
            taken.bytes = len(body)
            if codings:
                body = await inflate_body(codings, body, route.max_body)
        answer = route.handler.answer(head, body)
        if isinstance(answer, Response):
            return answer
        return await _wait(answer, receive, route.timeout + SLACK)


class Taken:
    """How much of a request's body came, for whoever counts it."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


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


async def _wait(answer: asyncio.Future[Response], receive: Receive, seconds: float) -> Response:
    """The answer when it is there; it is cancelled when the client leaves or `seconds` are over."""
    deadline = time.monotonic() + seconds
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


def _refuse(head: Head, route: Route, error: InsulaError) -> Response:
    """The error in the shape of the route's protocol, with the headers that HTTP asks for beside it."""
    try:
        response = route.handler.refuse(head, error)
    except Exception:
        _log.exception("%s could not tell an error (request %s)", route.label, head.request_id)
        response = refusal(head, InsulaError("the server failed to answer"))
    wrong = fault(response.headers)
    if wrong is not None:
        _log.error("%s gave an error that cannot be sent: %s (request %s)", route.label, wrong, head.request_id)
        response = refusal(head, GuestError("the service gave an answer that cannot be sent"))
    extra: list[tuple[bytes, bytes]] = []
    if error.retry_after is not None:
        extra.append((b"retry-after", b"%d" % max(1, round(error.retry_after))))
    if error.code is Code.UNAUTHENTICATED and response.status == 401:
        extra.append((b"www-authenticate", b"Bearer"))
    return Response(response.status, (*response.headers, *extra), response.body) if extra else response


async def _finish(head: Head, response: Response) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers and body as they go out: compressed where that helps, with length and request id."""
    headers = list(response.headers)
    body = response.body
    if response.status in _BODILESS:
        body = b""
    else:
        if len(body) >= COMPRESSED_FROM and _may_compress(headers):
            headers.append((b"vary", b"accept-encoding"))
            coding = preferred(head.get(b"accept-encoding"))
            if coding is not None:
                deflate = CODINGS[coding].deflate
                smaller = deflate(body) if len(body) < THREAD_FROM else await asyncio.to_thread(deflate, body)
                if len(smaller) < len(body):
                    body = smaller
                    headers.append((b"content-encoding", coding))
        headers.append((b"content-length", b"%d" % len(body)))
    headers.append((b"x-request-id", head.request_id.encode()))
    return headers, body


def _may_compress(headers: list[tuple[bytes, bytes]]) -> bool:
    kind = b""
    for name, value in headers:
        if name == b"content-encoding" or (name == b"cache-control" and b"no-transform" in value):
            return False
        if name == b"content-type":
            kind = value.lower()
    return kind.startswith(_COMPRESSIBLE)
