"""The fast lane: from the head and body of a plain call to the bytes of its answer, with no scope, task or message between.

It has the ordinary road's table, checks, handlers and numbers, and says what that road would say, byte for byte. What it
takes is narrow: a POST of HTTP/1.1 to an exact path, with a content length, whole, with no coding on it, on a connection
that goes on. `meet` decides by the head; everything else is the ordinary road's. An answer that is not there at once, or
that is so large that it is compressed in a thread, is finished by the ordinary road as well.
"""

from __future__ import annotations

from time import monotonic

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from insula.edge.answers import (
    BODILESS,
    COMPRESSED_FROM,
    THREAD_FROM,
    checked,
    failed,
    fields_of,
    finished,
    negotiated,
    wire,
)
from insula.edge.app import Application
from insula.edge.asgi import App
from insula.edge.exchange import Head, Response
from insula.edge.header_memo import HeaderMemo, Known
from insula.edge.request_id import new_request_id, sane_id

#: Bytes of a body that the lane takes.
MAX_BODY = 65_536

#: Headers that make a request more than plain.
_NOT_PLAIN = frozenset((b"content-encoding", b"expect", b"transfer-encoding", b"upgrade"))


class Lane:
    """The lane of one listener into one application."""

    def __init__(self, app: Application) -> None:
        self.memo = HeaderMemo()
        self._app = app
        self._defaults: object = None
        self._ok = self._default_lines = b""
        app.on_change(self.memo.forget)

    def meet(self, target: bytes, headers: list[tuple[bytes, bytes]]) -> Known | None:
        """What follows from the head of a sound POST that the lane takes once it is whole, or None."""
        app = self._app
        route = app.table.exact.get(target)
        if route is None or "POST" not in route.methods:
            return None
        length = -1
        sent: bytes | None = None
        for name, value in headers:
            if name in _NOT_PLAIN:
                return None
            if name == b"content-length":
                length = int(value)
            elif name == b"x-request-id" and sent is None:
                sent = value
        if not 0 <= length <= min(MAX_BODY, route.max_body):
            return None
        head = Head("POST", target, b"", headers)
        try:
            facts = route.handler.prepare(head)
        except Exception:  # a refusal, or a failure of the handler: the ordinary road comes to the same and tells it
            return None
        return Known(head, length, sane_id(sent), route, facts, app.metrics.route(route.label))

    def answer(
        self, known: Known, body: bytes, peer: str, scheme: str, defaults: list[tuple[bytes, bytes]]
    ) -> bytes | App:
        """The bytes of the answer, or the application that finishes it. Never raises. `defaults` are the fields that the
        listener puts on every answer; a new list of them is made when they change."""
        app, route, said = self._app, known.route, known.head
        request_id = known.request_id or new_request_id()
        started = monotonic()
        head = Head("POST", said.path, b"", said.headers, peer, scheme, "1.1", request_id, started)
        try:
            for check in app.checks:
                refusal = check(head, route)
                if refusal is not None:
                    raise refusal
            answer = route.handler.answer(head, known.facts, body)
            if not isinstance(answer, Response):
                return app.finishing(head, route, answer, len(body))
            return self._told(known, head, checked(head, route, answer), len(body), defaults)
        except Exception as error:
            return self._told(known, head, failed(head, route, error), len(body), defaults)

    def _told(
        self, known: Known, head: Head, answer: Response, bytes_in: int, defaults: list[tuple[bytes, bytes]]
    ) -> bytes | App:
        """An answer as it goes out; it is counted."""
        if defaults is not self._defaults:
            self._defaults = defaults
            self._default_lines = wire(tuple(defaults))
            self._ok = STATUS_LINE[200] + self._default_lines
        status, out = answer.status, answer.body
        first = self._ok if status == 200 else STATUS_LINE[status] + self._default_lines
        fields = fields_of(answer.headers).wire
        if len(out) < COMPRESSED_FROM and status not in BODILESS:
            told = b"%b%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n%b" % (
                first,
                fields,
                len(out),
                head.request_id.encode(),
                out,
            )
        else:
            varies, coding = negotiated(head, answer)
            if coding is not None and len(out) >= THREAD_FROM:
                return self._app.finishing(head, known.route, answer, bytes_in)
            added, out = finished(head, answer, varies, coding)
            told = b"%b%b%b\r\n%b" % (first, fields, wire(added), out)
        known.stats.record(status, monotonic() - head.received, bytes_in, len(out))
        return told
