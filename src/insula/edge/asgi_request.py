"""One request of a connection that an ASGI application answers (asgi.readthedocs.io, HTTP & WebSocket format 2.3).

The application runs in a task of its own. What it sends is checked as it goes out: a length that is not kept, a field with
a line end and messages out of order are its failures. One that fails before its answer has begun has a whole 500 in its
place; behind half an answer the connection ends, so that nobody takes the half for the whole.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

from insula.background import told
from insula.edge.asgi import App, Message, Scope
from insula.edge.flow import Flow
from insula.edge.http1 import RequestHead
from insula.edge.last_words import Last
from insula.edge.request_id import new_request_id
from insula.edge.status_line import STATUS_LINES

_log = logging.getLogger("insula.edge")

#: Bytes of a body that wait for the application before the connection is read no further.
HIGH_WATER = 65_536

_NOT_IN_NAMES = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_NOT_IN_VALUES = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Carrier(Protocol):
    """The connection that a request came by."""

    transport: asyncio.Transport
    flow: Flow

    def answered(self, request: AsgiRequest) -> None:
        """The answer has been written, or broken off: `request.complete` says which."""

    def default_fields(self) -> list[tuple[bytes, bytes]]:
        """The fields that the listener puts on every answer."""


def scope_of(head: RequestHead, server: Any, client: Any, scheme: str) -> Scope:
    """The scope of a request; `server` and `client` are the addresses of the two ends."""
    url = httptools.parse_url(head.target)
    raw = url.path
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "server": server[:2] if isinstance(server, tuple) else None,
        "client": client[:2] if isinstance(client, tuple) else None,
        "scheme": scheme,
        "root_path": "",
        "headers": head.headers,
        "method": head.method,
        "path": unquote(raw.decode("ascii")),
        "raw_path": raw,
        "query_string": url.query or b"",
    }


class AsgiRequest:
    """`started` and `complete` are of its answer. `keep_alive`: the connection goes on behind it."""

    __slots__ = (
        *("_body", "_carrier", "_chunked", "_event", "_expects", "_left", "_more", "_owed", "_scope", "_task"),
        *("complete", "keep_alive", "started"),
    )

    def __init__(self, carrier: Carrier, scope: Scope, *, keep_alive: bool, expects: bool = False) -> None:
        self.started = self.complete = False
        self.keep_alive = keep_alive
        self._carrier = carrier
        self._scope = scope
        self._expects = expects
        self._body = bytearray()
        self._more = True
        self._left = False
        self._event = asyncio.Event()
        self._chunked: bool | None = None
        self._owed = 0  # bytes of the announced length that are not sent yet
        self._task: asyncio.Task[None] | None = None

    def begin(self, app: App, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Has the application answer, in a task."""
        self._task = told(loop.create_task(self._run(app)), "the answer of an application")
        return self._task

    # what the connection tells

    def body(self, piece: bytes) -> None:
        """A piece of the body has come."""
        self._body += piece
        if len(self._body) > HIGH_WATER:
            self._carrier.flow.pause_reading()
        self._event.set()

    def end(self) -> None:
        """The body is whole."""
        self._more = False
        self._event.set()

    def left(self) -> None:
        """The client has left."""
        self._left = True
        self._event.set()

    @property
    def over(self) -> bool:
        """Whether nothing more is to be said."""
        return self.complete or self._left

    def cut_off(self) -> bool:
        """The server stops, and this request has had its grace. The listener cancels its task, with those of clients that
        have left."""
        return False

    # the task

    async def _run(self, app: App) -> None:
        try:
            await app(self._scope, self.receive, self.send)
        except BaseException as error:
            _log.error("an application failed", exc_info=error)
        else:
            if not self.over:
                _log.error("an application gave %s answer", "half an" if self.started else "no")
        finally:
            if not self.over:
                self._break_off()
            self._task = None

    def _break_off(self) -> None:
        """What the application gave is no whole answer."""
        self.keep_alive = False
        if not self.started:
            self.started = self.complete = True
            carrier = self._carrier
            carrier.transport.write(Last.INTERNAL.encode(carrier.default_fields(), new_request_id()))
        self._carrier.answered(self)

    async def receive(self) -> Message:
        """The next message for the application."""
        carrier = self._carrier
        if self._expects and not carrier.transport.is_closing():
            carrier.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._expects = False
        if not self.over:
            carrier.flow.resume_reading()
            await self._event.wait()
            self._event.clear()
        if self.over:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def send(self, message: Message) -> None:
        """A message of the application. Waits while the client does not take what was written."""
        carrier = self._carrier
        if carrier.flow.write_paused and not self._left:
            await carrier.flow.drain()
        if self._left:
            return
        kind = message["type"]
        if not self.started and kind == "http.response.start":
            self._start(message["status"], list(message.get("headers", ())))
        elif self.started and not self.complete and kind == "http.response.body":
            self._send(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind} is not the message that the answer has to go on with")

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        lines = [STATUS_LINES[status]]
        says_close = False
        for name, value in self._carrier.default_fields() + headers:
            if _NOT_IN_NAMES.search(name) or _NOT_IN_VALUES.search(value):
                raise RuntimeError(f"a field that cannot be sent: {name!r}")
            name = name.lower()
            if name == b"content-length" and self._chunked is None:
                self._owed = int(value)
                self._chunked = False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self._owed = 0
                self._chunked = True
            elif name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
                self.keep_alive = False
                says_close = True
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive and not says_close:
            lines.append(b"connection: close\r\n")
        if self._chunked is None and self._scope["method"] != "HEAD" and status not in (204, 304):
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        self.started = True
        self._expects = False
        self._carrier.transport.write(b"".join(lines))

    def _send(self, body: bytes, *, more: bool) -> None:
        transport = self._carrier.transport
        if self._scope["method"] == "HEAD":
            self._owed = 0
        elif self._chunked:
            piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            transport.write(piece if more else piece + b"0\r\n\r\n")
        else:
            if len(body) > self._owed:
                raise RuntimeError("the answer is longer than its content-length")
            self._owed -= len(body)
            transport.write(body)
        if not more:
            if self._owed:
                raise RuntimeError("the answer is shorter than its content-length")
            self.complete = True
            self._event.set()
            self._carrier.answered(self)
