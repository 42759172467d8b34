"""One request to an ASGI application that a route leads to (`Asgi`): event streams, uploads, what does not answer whole.

The application reads and sends as it likes; its body is bounded by the route, its answer gets the request id and what rules
add, and whatever goes wrong before the answer begins is a whole answer in the shape of the route. An answer that breaks off
never looks whole: the error goes on to the listener, which ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from insula.edge.answers import CutOffError, checked, failed, finished
from insula.edge.asgi import App, Message, Receive, Scope, Send, sent_whole
from insula.edge.become import BECOME, Successor
from insula.edge.body import ClientGoneError, check_length, too_large
from insula.edge.exchange import Head, Response, Route
from insula.edge.observing import CLIENT_GONE

#: Fields that an application may not say of its answer: the edge has the one request id.
_OURS = (b"x-request-id",)


class Stream:
    """One request and its answer. `status` (499 where none was given), `bytes_in` and `bytes_out` are for the observers.
    `bare` leaves the body of the answer out."""

    def __init__(self, head: Head, route: Route, receive: Receive, send: Send, *, bare: bool) -> None:
        self.status = CLIENT_GONE
        self.bytes_in = self.bytes_out = 0
        self._head = head
        self._route = route
        self._receive = receive
        self._send = send
        self._bare = bare
        self._started = self._finished = self._gone = False

    async def run(self, app: App, scope: Scope, admission: Awaitable[Response | None]) -> None:
        """Runs the application once the request is admitted. Raises where its answer has begun and breaks off."""
        try:
            answer = await admission
            if answer is None:
                refusal = check_length(self._head, self._route.max_body, self._route.bound)
                if refusal is not None:
                    raise refusal
                await app(self._inner(scope), self._read, self._mark)
                if self._started or self._gone:
                    return
                raise RuntimeError("the application gave no answer")
        except ClientGoneError:
            return
        except asyncio.CancelledError:
            # the server stops and this request has had its grace; its client still gets a whole answer
            answer = self._failed(CutOffError())
        except Exception as error:
            answer = self._failed(error)
            if self._started and not self._finished:
                raise
        if not self._started:
            await self._give(checked(self._head, self._route, answer))
        elif not self._finished:
            raise CutOffError

    def _inner(self, scope: Scope) -> Scope:
        """The scope as the application gets it."""
        inner = {**scope, "method": self._head.method, "insula.head": self._head}
        become = scope.get("extensions", {}).get(BECOME)
        if become is not None:
            inner["extensions"] = {BECOME: partial(self._become, become)}
        return inner

    def _become(self, become: Callable[[Successor], None], successor: Successor) -> None:
        """The application takes the connection: what it says from now on is no answer of HTTP's."""
        become(successor)
        self.status = 101
        self._gone = True

    def _failed(self, error: Exception) -> Response:
        return failed(self._head, self._route, error)

    async def _read(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone = True
        self.bytes_in += len(message.get("body", b""))
        if self.bytes_in > self._route.max_body:
            raise too_large(self._route.max_body, self._route.bound)
        return message

    async def _mark(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started, self.status = True, message["status"]
            headers = [pair for pair in message.get("headers", ()) if pair[0].lower() not in _OURS]
            headers += [*self._head.fields, (b"x-request-id", self._head.request_id.encode())]
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self._finished = not message.get("more_body", False)
            self.bytes_out += len(message.get("body", b""))
            if self._bare:
                message = {**message, "body": b""}
        await self._send(message)

    async def _give(self, response: Response) -> None:
        """Sends a whole answer of the edge's own."""
        added, body = finished(self._head, response, False, None)
        self.status, self.bytes_out = response.status, len(body)
        headers = [*response.headers, *added]
        await sent_whole(self._send, {"type": "http.response.start", "status": response.status, "headers": headers})
        await sent_whole(self._send, {"type": "http.response.body", "body": b"" if self._bare else body})
