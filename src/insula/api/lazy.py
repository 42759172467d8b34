"""The admin port's ASGI application: guarded, and with FastAPI imported at the first request that needs it.

`/api/v1/health` works without FastAPI. The first other request builds the application in a thread; requests
that come meanwhile wait for the same build. An exception that nobody foresaw is logged here and answered as `internal`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from insula.api.answers import HEALTH, health_answer, unforeseen
from insula.api.parts import AdminParts
from insula.background import told
from insula.edge.admin_errors import error_body, error_headers
from insula.errors import InsulaError

log = logging.getLogger("insula.api")

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class AdminApp:
    """The ASGI application of the admin port. Lives on one event loop."""

    def __init__(self, parts: AdminParts) -> None:
        self._parts = parts
        self._built: asyncio.Task[App] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan of the server."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "the admin port has no WebSocket"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == HEALTH and scope["method"] in ("GET", "HEAD"):
            status, body = health_answer(self._parts)
            await _respond(send, status, body, {"cache-control": "no-store"})
        else:
            await self._fastapi(scope, receive, send)

    async def _fastapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = finished = False

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal started, finished
            started = True
            finished = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            app = await self._app()
            await app(scope, receive, watched)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started and not finished:
                raise
            if not started:
                await _refuse(send, unforeseen())

    async def _app(self) -> App:
        if self._built is None:
            build = asyncio.create_task(asyncio.to_thread(_build, self._parts))
            self._built = told(build, "building the admin API")
        try:
            return await asyncio.shield(self._built)
        except Exception:
            self._built = None
            raise


def _build(parts: AdminParts) -> App:
    from insula.api.admin import build

    return build(parts)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _refuse(send: Send, error: InsulaError) -> None:
    await _respond(send, error.http_status, error_body(error), error_headers(error))


async def _respond(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    pairs = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    pairs += [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
