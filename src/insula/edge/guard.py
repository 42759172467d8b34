"""The guard of the admin port: what stands before its application, whatever that is built with.

Request id, who may call at all, the size of a body, and a whole answer where the application fails. With a token, every
path but the open ones asks for it; without one, Host and Origin are looked at, as only loopback is served then. Its own
refusals have the shape of the admin port.
"""

from __future__ import annotations

import asyncio
import logging

from insula.edge.admin_errors import error_body, error_headers
from insula.edge.app import head_of
from insula.edge.asgi import App, Message, Receive, Scope, Send
from insula.edge.body import check_length, too_large
from insula.edge.exchange import Head
from insula.edge.local import check_host, check_origin, check_token
from insula.errors import InsulaError, UnavailableError

_log = logging.getLogger("insula.edge")

#: Paths that never need a token.
OPEN_PATHS = frozenset((b"/api/v1/health",))


#: What bounds every body of the admin port.
MAX_BODY = "packages.max_bytes"


class Guard:
    """An ASGI application around another. An empty `token` is no token. `max_body` in bytes bounds every body; the inner
    application may have lower bounds of its own."""

    def __init__(self, inner: App, *, token: str = "", max_body: int = 256 << 20) -> None:
        self._inner = inner
        self._token = token
        self._max_body = max_body

    def check(self, head: Head) -> InsulaError | None:
        """The refusal of a request by its head, or None."""
        if self._token:
            refusal = None if head.path in OPEN_PATHS else check_token(head, self._token)
        else:
            refusal = check_host(head) or check_origin(head)
        return refusal or check_length(head, self._max_body, MAX_BODY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        head = head_of(scope)
        request_id = (b"x-request-id", head.request_id.encode())
        started = finished = False
        left = self._max_body

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise too_large(self._max_body, MAX_BODY)
            return message

        async def marked(message: Message) -> None:
            nonlocal started, finished
            if message["type"] == "http.response.start":
                started = True
                headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*headers, request_id]}
            elif not message.get("more_body", False):
                finished = True
            await send(message)

        error = self.check(head)
        if error is None:
            try:
                await self._inner(scope, bounded, marked)
            except InsulaError as raised:
                error = raised
            except asyncio.CancelledError:
                # the server stops and this request has had its grace; its client still gets a whole answer
                error = UnavailableError(
                    "the server stopped before there was an answer",
                    hint="what was asked for may have been done: look once it is up again, with `insula list`",
                    retry_after=1.0,
                )
            except Exception:
                _log.exception("the admin application failed (request %s)", head.request_id)
                error = InsulaError("internal error", hint="the server's log has more under the request id")
            if error is None or finished:
                return
            if started:  # half an answer must not look like a whole one: the listener ends the connection
                raise error
        await _answer(marked, error)


async def _answer(send: Send, error: InsulaError) -> None:
    content = error_body(error)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    headers += [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
