"""The fast lane: from the head and body of a plain call to the bytes of its answer, with no scope, task or message between.

It has the ordinary road's table, rules, handlers and numbers, and says what that road would say, byte for byte. What it
takes is narrow: a POST of HTTP/1.1 to an exact path, with a content length, whole, with no coding on it, on a connection
that goes on. `meet` decides by the head; everything else is the ordinary road's. An answer that is not there at once is
waited for (late.py); one that is so large that it is compressed in a thread is finished by the ordinary road.
"""

from __future__ import annotations

from time import monotonic

from insula.edge.admission import admit, concerning
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
from insula.edge.exchange import Asgi, Head, Response
from insula.edge.head_reader import HeadReader
from insula.edge.header_memo import HeaderMemo, Known
from insula.edge.late import LateAnswer
from insula.edge.limits import ConnectionLimits
from insula.edge.metrics import QUICK
from insula.edge.observing import answered
from insula.edge.request_id import new_request_id, sane_id
from insula.edge.sharing import Shared
from insula.edge.status_line import STATUS_LINES
from insula.errors import InsulaError

#: Bytes of a body that the lane takes.
MAX_BODY = 65_536

#: Bytes of the fields of an answer that are remembered with the head.
MAX_SAID = 512


class Lane:
    """The lane of one listener into one application."""

    def __init__(self, app: Application) -> None:
        self.memo = HeaderMemo()
        self.intake = app.intake
        self._reader = HeadReader()
        self._app = app
        self._defaults: object = None
        self._default_lines = b""
        app.on_change(self.memo.forget)

    def meet(self, data: bytes, start: int, end: int, limits: ConnectionLimits) -> Known | None:
        """What follows from a head that is not known yet, from `start` to behind its empty line at `end` (before
        `start` where there is none); None where the lane does not take its message. Nobody else has read it."""
        if end < start + 4 or not data.startswith(b"POST ", start):
            return None
        app = self._app
        target = data[start + 5 : data.find(b" ", start + 5, end)]
        route = app.table.exact.get(target)
        if route is None or "POST" not in route.methods or isinstance(route.handler, Asgi):
            return None
        plain = self._reader.read(data, start, end, limits)
        if plain is None or plain.target != target:
            return None
        head = Head("POST", target, b"", plain.headers)
        if isinstance(route.handler, Shared):
            route = route.handler.of(head) or route
        handler = route.handler
        if isinstance(handler, Asgi | Shared) or plain.length > min(MAX_BODY, route.max_body):
            return None
        try:
            answer = handler.prepare(head)
        except Exception:  # a refusal, or a failure of the handler: the ordinary road comes to the same and tells it
            return None
        return Known(
            head,
            plain.length,
            sane_id(plain.request_id),
            route,
            concerning(app.rules, route),
            answer,
            app.metrics.of(route),
            app.observing(route),
        )

    def answer(
        self,
        known: Known,
        body: bytes,
        peer: str,
        scheme: str,
        defaults: list[tuple[bytes, bytes]],
        received: float,
    ) -> bytes | LateAnswer | App:
        """The bytes of the answer, or what is waited for, or the application that finishes it. Never raises. `defaults` are
        the fields that the listener puts on every answer; a new list of them is made when they change. `received` is of
        time.monotonic()."""
        request_id = known.request_id or new_request_id()
        head = Head("POST", known.path, b"", known.headers, peer, scheme, "1.1", request_id, received)
        try:
            if known.rules:
                ruled = self._ruled(known, head, body, defaults)
                if ruled is not None:
                    return ruled
            answer = known.answer(head, body)
            if answer.__class__ is not Response:
                return LateAnswer(self._app, known, head, answer, len(body))
            if answer.headers is known.said and answer.status == 200 and defaults is known.defaults:
                out = answer.body
                size = len(out)
                if size < COMPRESSED_FROM:
                    told = b"%b%d\r\nx-request-id: %b\r\n\r\n%b" % (known.begin, size, request_id.encode(), out)
                    stats = known.stats
                    seconds = monotonic() - received
                    if seconds > QUICK:
                        stats.record(200, seconds, len(body), size)
                    else:
                        stats.quick += 1
                        stats.seconds += seconds
                        stats.bytes_in += known.length
                        stats.bytes_out += size
                    return told
            return self.told(known, head, checked(head, known.route, answer), len(body), defaults)
        except Exception as error:
            return self.told(known, head, failed(head, known.route, error), len(body), defaults)

    def _ruled(
        self, known: Known, head: Head, body: bytes, defaults: list[tuple[bytes, bytes]]
    ) -> bytes | LateAnswer | App | None:
        """None where the rules let the request in and add nothing to its answer: it is answered as one without rules. Else
        what `answer` returns for it; raises the refusal."""
        verdict = admit(known.rules, head, known.route)
        if verdict is not None:
            if isinstance(verdict, InsulaError):
                raise verdict
            return self._app.waiting(head, known.route, known.observers, verdict, known.answer, body)
        if not head.fields:
            return None
        answer = known.answer(head, body)
        if not isinstance(answer, Response):
            return LateAnswer(self._app, known, head, answer, len(body))
        return self.told(known, head, checked(head, known.route, answer), len(body), defaults)

    def told(
        self, known: Known, head: Head, answer: Response, bytes_in: int, defaults: list[tuple[bytes, bytes]]
    ) -> bytes | App:
        """An answer, checked, as it goes out; it is observed. One like it is told at once the next time, if metrics alone
        observe the route."""
        if defaults is not self._defaults:
            self._defaults = defaults
            self._default_lines = wire(tuple(defaults))
        status, out = answer.status, answer.body
        fields = fields_of(answer.headers).wire
        first = STATUS_LINES[status] + self._default_lines + fields
        if len(out) < COMPRESSED_FROM and status not in BODILESS:
            if head.fields:
                first += wire(head.fields)
            told = b"%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n%b" % (
                first,
                len(out),
                head.request_id.encode(),
                out,
            )
            if status == 200 and len(fields) <= MAX_SAID and not head.fields and len(known.observers) == 1:
                known.said, known.defaults, known.begin = answer.headers, defaults, first + b"content-length: "
        else:
            varies, coding = negotiated(head, answer)
            if coding is not None and len(out) >= THREAD_FROM:
                return self._app.finishing(head, known.route, known.observers, answer, bytes_in)
            added, out = finished(head, answer, varies, coding)
            told = b"%b%b\r\n%b" % (first, wire(added), out)
        answered(known.observers, head, status, bytes_in, len(out))
        return told
