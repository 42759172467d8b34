"""The requests of one connection, in their order: read, handed to the application, answered.

The policy
- One request is answered at a time. What a client sends ahead is held, and read no further than its first head. What all
  clients sent ahead is bounded, together with the answers that they do not read: where it is too much, those of the client
  that holds most are not answered any more, after the one under way.
- What goes wrong here in reading is this server's fault and told as such: a 500, the log has the rest, and the connection
  ends. Only what the reader finds wrong is the client's.
- What is not a request gets one whole answer, after the answers to the requests before it, and the connection ends.
- Nothing is read as a request after the last one: a connection that is to close is deaf, and bytes are thrown away.
- A request that is answered before its body came may send a little more; then the connection ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from insula.edge.asgi_request import AsgiRequest, scope_of
from insula.edge.become import BECOME
from insula.edge.connection import HEARD_OUT, Connection
from insula.edge.connections import Connections
from insula.edge.http1 import Data, End, Event, Refused, RequestHead, Stage
from insula.edge.last_words import HTTP_1_1_REQUIRED, Last
from insula.edge.request_id import new_request_id

_log = logging.getLogger("insula.edge")

#: Bytes of a body that may still come after its request was answered.
SPARE = 262_144
#: Bytes of unanswered requests from which a connection is counted, and bytes that a parsed one counts beside its body.
COUNTED_FROM = 4096
PARSED = 2560


class Ahead:
    """What a connection holds of requests that are not answered yet, as a holder of the listener's backlog."""

    __slots__ = ("_give_up", "counted")

    def __init__(self, give_up: Callable[[], None]) -> None:
        self._give_up = give_up
        self.counted = False

    def give_up(self) -> None:
        """They are dropped."""
        self.counted = False
        self._give_up()


class HttpConnection(Connection):
    """One connection that speaks HTTP/1.1."""

    __slots__ = ("_ahead", "_reading", "_spare")

    def __init__(self, shared: Connections, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(shared, loop)
        self._ahead = Ahead(self.give_up_ahead)
        self._reading: AsgiRequest | None = None  # the request that the present body is of
        self._spare = 0  # bytes of a body that may still come, its request being answered

    def _stop_clocks(self) -> None:
        super()._stop_clocks()
        self.shared.unread.release(self._ahead)

    def _part(self) -> None:
        super()._part()
        self._ahead = self._reading = None  # type: ignore[assignment]

    def answered_early(self) -> bool:
        """Whether the request whose body is coming has its answer."""
        return self._reading is not None and self._reading.complete

    # bytes in

    def data_received(self, data: bytes) -> None:
        try:
            self._received(data)
            self._count_ahead()
        except Exception as error:
            self._broken(error)

    def _count_ahead(self) -> None:
        """Counts what is held of requests that are not whole, or wait for the one before them."""
        size = self._sent_ahead() if self._reader.stage is not Stage.DEAF else 0
        if size >= COUNTED_FROM:
            self._ahead.counted = True
            self.shared.unread.hold(self._ahead, size, self.address)
        elif self._ahead.counted:
            self._ahead.counted = False
            self.shared.unread.release(self._ahead)

    def _sent_ahead(self) -> int:
        size = len(self._held) + self._reader.partial
        for event in self._reader.events:
            if isinstance(event, RequestHead):
                size += PARSED
            elif isinstance(event, Data):
                size += len(event.piece)
        return size

    def give_up_ahead(self) -> None:
        """Drops the requests that were sent ahead, to make room for others: only the request under way is answered."""
        self._reader.events.clear()
        self.fail(Last.AHEAD)

    def _received(self, data: bytes) -> None:
        if self._changes:
            self._reader.rest += data
            self.flow.pause_reading()
        elif self._reader.stage is Stage.DEAF:
            return
        elif self._held:
            self._held += data
            self.flow.pause_reading()
        else:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Reads what came, up to the first head that has to wait."""
        self._idle.stop()
        reader = self._reader
        start, size = 0, len(data)
        while start < size and reader.stage is not Stage.DEAF:
            if reader.events or (reader.stage is Stage.HEAD and not reader.begun and self.busy()):
                self._held = data[start:]
                self.flow.pause_reading()
                break
            try:
                start = reader.feed(data, start)
            finally:  # what came before a failure is sound
                self._heed()
        self._read_clock.watch()
        if self._heard_out:
            self._stop_after()

    def _heed(self) -> None:
        """Does what the events say, up to a head that has to wait."""
        events = self._reader.events
        while events:
            event = events[0]
            if self._is_later(event):
                self.flow.pause_reading()
                return
            events.popleft()
            if isinstance(event, Data):
                self._body(event.piece)
            elif isinstance(event, RequestHead):
                self._begin(event)
            elif isinstance(event, End):
                self._end()
            else:
                self.fail(event.last, preface=event.is_preface)

    def _is_later(self, event: Event) -> bool:
        """Whether an event belongs to a later request than the one under way."""
        later = isinstance(event, RequestHead) or (isinstance(event, Refused) and not event.in_body)
        return later and self.busy()

    def _begin(self, head: RequestHead) -> None:
        """A sound head is whole: the application gets the request."""
        self._idle.stop()
        shared = self.shared
        scope = scope_of(head, self._server, self._client, self._scheme)
        self._changes = head.upgrade is not None
        if self._changes:
            scope["extensions"] = {BECOME: self.become}
        keep_alive = head.keep_alive and not self._last and not self._changes
        request = AsgiRequest(self, scope, keep_alive=keep_alive, expects=head.expects)
        self._request = self._reading = request
        self._spare = 0 if head.expects else SPARE  # whether the body still comes is not to be known
        shared.add_task(request.begin(shared.app, self.loop))

    def _body(self, piece: bytes) -> None:
        request = self._reading
        assert request is not None
        if not request.complete:
            request.body(piece)
            return
        self._spare -= len(piece)
        if self._spare < 0:
            self.linger()

    def _end(self) -> None:
        request = self._reading
        assert request is not None
        if request.complete:  # it was answered before its body came
            self._reading = self._request = None
            self._idle.start()
            return
        request.end()
        self._reading = None
        if not request.keep_alive:
            self._deafen()

    def answered(self, request: AsgiRequest) -> None:
        """The application has given its answer, or broken it off."""
        self._changes = False
        if self._ending.begun or self.transport.is_closing():
            return
        if not request.keep_alive:
            self.linger()
        elif request is not self._reading:
            self._next()
        elif self._spare:
            self.flow.resume_reading()
            self._read_clock.after_answer()
        else:
            self.linger()

    def _next(self) -> None:
        """A request was answered, and the connection goes on."""
        self._request = None
        self.flow.resume_reading()
        if self._heard_out:
            self._wait(HEARD_OUT, self._lose_patience)
        if self._farewell:
            self._say(self._farewell)
            return
        try:
            self._heed()
            if self._held and not self._reader.events and (self._reading is not None or not self.busy()):
                data, self._held = self._held, b""
                self._feed(data)
                self._count_ahead()
            elif self._ahead.counted:
                self._count_ahead()
        except Exception as error:
            self._broken(error)
        if not self.busy() and not self._ending.begun and not self._reader.begun:
            self._rest()

    # the end

    def _broken(self, error: BaseException) -> None:
        """Reading failed for a reason of ours: the log has it, and the client a whole 500."""
        request_id = new_request_id()
        _log.error("a request could not be read (request %s)", request_id, exc_info=error)
        try:
            request = self._request
            if self._reading is None and not self._reader.begun and request is not None and not request.over:
                # no request is half read: the one under way has its answer, and no other answer is due
                self.shared.dropped(Last.INTERNAL.reason)
                self._deafen()
                request.keep_alive = False
            else:
                self.fail(Last.INTERNAL, request_id)
        except Exception:
            _log.exception("a connection could not be ended in order (request %s)", request_id)
            self._reader.deafen()
            self.transport.abort()

    def fail(self, last: Last, request_id: str = "", *, preface: bool = False) -> None:
        """Where the request under way is still coming, `last` is its answer."""
        self.shared.dropped(last.reason)
        self._deafen()
        self._read_clock.watch()
        words = last.encode(self.shared.default_fields, request_id)
        if preface and last is Last.MALFORMED:
            words = HTTP_1_1_REQUIRED
        request, self._reading = self._reading, None
        if request is not None:
            answered = request.started
            if not request.complete:
                request.left()
            if answered:
                self.linger()
                return
        if self.busy():
            self._farewell = words
        else:
            self._say(words)

    def _say(self, words: bytes) -> None:
        self._farewell = b""
        if not self.transport.is_closing():
            self.transport.write(words)
            self.linger()
