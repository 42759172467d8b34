"""One connection of a port that is open to strangers: transport, clocks and turns around a reader of HTTP/1.1 (http1.py).

The policy
- A client has a bounded time for each thing that it begins: its first byte, a head, a body, taking its answer. A body has
  more time the more of it came, and none runs while the server itself has paused reading.
- One request is answered at a time. What a client sends ahead is held, and read no further than its first head. What all
  clients sent ahead is bounded, together with the answers that they do not read: where it is too much, those of the client
  that holds most are not answered any more, after the one under way.
- What goes wrong here in reading is this server's fault and told as such: a 500, the log has the rest, and the connection
  ends. Only what the reader finds wrong is the client's.
- What is not a request gets one whole answer, after the answers to the requests before it, and the connection ends.
- Nothing is read as a request after the last one: a connection that is to close is deaf, and bytes are thrown away.
- A request that is answered before its body came may send a little more; then the connection ends. The last answer of a
  connection is followed by a half close and a short wait, since a reset would take the answer from the client's hands.
- Over the limit of connections a client gets a whole 503; too many of those at once are cut off.
- A request that asks for it may have the connection become another protocol's (become.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from insula.edge.asgi_request import AsgiRequest, scope_of
from insula.edge.become import BECOME, Guest, Successor
from insula.edge.clocks import KeepAlive, ReadClock, WriteClock
from insula.edge.connections import TURNED_AWAY, Connections
from insula.edge.ending import Ending
from insula.edge.flow import Flow
from insula.edge.http1 import Data, End, Event, Reader, Refused, RequestHead, Stage
from insula.edge.last_words import HTTP_1_1_REQUIRED, Last
from insula.edge.request_id import new_request_id

_log = logging.getLogger("insula.edge")

#: Bytes of a body that may still come after its request was answered.
SPARE = 262_144
#: Bytes of unanswered requests from which a connection is counted, and bytes that a parsed one counts beside its body.
COUNTED_FROM = 4096
PARSED = 2560
#: Seconds that a connection stays open, when the listener stops, to a client that may be sending a request.
MOMENT = 0.1
#: Seconds that an answer is still waited for once the client has ended its half of the connection.
HEARD_OUT = 0.5


class UnderWay(Protocol):
    """A request that is being answered. `started` and `complete` are of its answer; it is `over` once nothing more is to be
    said. `keep_alive`: the connection goes on behind it."""

    keep_alive: bool

    @property
    def started(self) -> bool: ...
    @property
    def over(self) -> bool: ...

    def left(self) -> None:
        """The client has left."""

    def cut_off(self) -> bool:
        """The server stops: the last answer is due now. Whether one was."""


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


class Connection(asyncio.Protocol):
    """One connection. `flow` and `transport` are there once it is made."""

    __slots__ = (
        *(
            "__weakref__",
            "address",
            "_ahead",
            "_changes",
            "_ending",
            "_farewell",
            "_heard_out",
            "_held",
            "_idle",
            "_last",
            "_made",
        ),
        *("_read_clock", "_reader", "_request", "_reading", "_scheme", "_server", "_client", "_spare", "_turned_away"),
        *("_write_clock", "flow", "limits", "loop", "shared", "transport"),
    )

    transport: asyncio.Transport
    flow: Flow

    def __init__(self, shared: Connections, loop: asyncio.AbstractEventLoop) -> None:
        self.shared = shared
        self.limits = shared.limits
        self.loop = loop
        self._reader = Reader(shared.limits, shared.upgrades)
        self._request: UnderWay | None = None
        self._reading: AsgiRequest | None = None  # the request that the present body is of
        self.address = ""  # of the client
        self._made = 0.0  # when, of the loop's time
        self._ahead = Ahead(self.give_up_ahead)
        self._held = b""  # came while a request waits for the one before it
        self._farewell = b""  # the last answer, due when the one under way has been given
        self._turned_away = False
        self._heard_out = False  # the client has ended its half
        self._last = False  # no request follows the present one, or the next where there is none
        self._spare = 0  # bytes of a body that may still come, its request being answered
        self._changes = False  # the request under way may have the connection become another protocol's

    # the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.flow = Flow(transport)
        self._server, self._client = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self._scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self.address = str(self._client[0]) if self._client else ""
        self._made = self.loop.time()
        self._ending = Ending(transport, self.loop, self.limits)
        self._idle = KeepAlive(self)
        self._read_clock = ReadClock(self, self._reader)
        self._write_clock = WriteClock(self)
        shared = self.shared
        self._last = shared.stopping
        if shared.add(self):
            self._read_clock.first_byte()
            return
        shared.turned_away += 1
        self._turned_away = True
        if shared.turned_away > TURNED_AWAY:
            shared.dropped("cut_off")
            self._reader.deafen()
            transport.abort()
        else:
            self.fail(Last.FULL)

    def connection_lost(self, _: Exception | None) -> None:
        self._stop_clocks()
        self._ending.stop()
        if self._turned_away:
            self.shared.turned_away -= 1
        request = self._request
        if request is not None and not request.over:
            request.left()
        self.flow.resume_writing()
        self.transport.close()
        self.shared.remove(self)
        self._part()

    def _stop_clocks(self) -> None:
        """Nothing is timed, counted or held any more."""
        for clock in (self._idle, self._read_clock, self._write_clock):
            clock.stop()
        self.shared.unread.release(self._ahead)
        self._held = self._farewell = b""

    def _part(self) -> None:
        """Leaves no circle behind: a connection goes with its last reference, not at some later look of the collector."""
        self._reader.close()
        self._request = self._reading = None
        self._ahead = self._idle = self._read_clock = self._write_clock = None  # type: ignore[assignment]

    def become(self, successor: Successor) -> None:
        """Hands the connection to another protocol, with what has come behind the head of the request under way, which is
        over. The listener counts it as before, and ends it by `successor.shutdown`. RuntimeError where the request has been
        answered, or its client has left."""
        if not self._changes or self._request is None or self._request.over:
            raise RuntimeError("the connection is no longer this request's to give away")
        self._changes = False
        self._request.left()
        self._stop_clocks()
        guest = Guest(successor, self.transport, self.shared)
        rest, self._reader.rest = self._reader.rest, b""
        self.shared.replace(self, guest)
        self.flow.resume_reading()
        self._part()
        guest.begin(rest)

    def shutdown(self) -> None:
        """The listener stops: ends the connection after the requests that it has begun, or now. Where the client may be
        sending one at this moment, since it has only just connected or got an answer, it has a moment for that."""
        self._last = True
        if self.busy():
            self._stop_after()
        elif self.loop.time() - self._quiet_since() < MOMENT:
            self.loop.call_later(MOMENT, self._shut_quiet)
        else:
            self.shut()

    def _stop_after(self) -> None:
        """The request under way is the last one, unless another one has come, which then is."""
        if self._request is not None and not self._reader.events and not self._held:
            self._request.keep_alive = False

    def _quiet_since(self) -> float:
        """When the connection was made or last answered, of the loop's time."""
        return self._idle.since or self._made

    def _shut_quiet(self) -> None:
        if not self.busy():
            self.shut()

    def cut_off(self) -> bool:
        """The server stops, and what is under way has had its grace. Whether there was anything."""
        return self._request is not None and not self._request.over and self._request.cut_off()

    def eof_received(self) -> bool:
        """The client is gone, or has no more to say, which cannot be told apart: what was written has its time, and a
        request that is being answered has a moment (`HEARD_OUT`). Whether the transport stays open for that."""
        if not self.busy():
            self._ending.whole()
            return False
        self._last = self._heard_out = True
        self._stop_after()
        self.loop.call_later(HEARD_OUT, self._lose_patience)
        return True

    def _lose_patience(self) -> None:
        if not self._ending.begun:
            self._ending.whole()

    def abort(self) -> None:
        """Ends the connection at once, whatever is under way."""
        self.transport.abort()

    def busy(self) -> bool:
        """Whether a request is being answered, or is still coming."""
        return self._request is not None and not self._request.over

    def answered_early(self) -> bool:
        """Whether the request whose body is coming has its answer."""
        return self._reading is not None and self._reading.complete

    def has_more(self) -> bool:
        """Whether something has come, or is under way, so that the connection is not idle."""
        return bool(self._held) or self.busy()

    def waits(self) -> bool:
        """Whether what has come waits for a turn of this server's."""
        return False

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

    def default_fields(self) -> list[tuple[bytes, bytes]]:
        """The fields of every answer of this listener."""
        return self.shared.default_fields

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
        if self._farewell:
            self._say(self._farewell)
            return
        try:
            self._heed()
            if self._held and not self._reader.events and (self._reading is not None or not self.busy()):
                data, self._held = self._held, b""
                self._feed(data)
                self._count_ahead()
        except Exception as error:
            self._broken(error)
        if not self.busy() and not self._ending.begun:
            if self._last:  # the stop has left a moment for the rest of a request that has begun
                self.loop.call_later(MOMENT, self._shut_quiet)
            self._idle.start()

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._write_clock.start()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        self._write_clock.stop()

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
        """Ends the connection with `last`, once the request under way has been answered; where that one is still coming,
        `last` is its answer."""
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

    def _deafen(self) -> None:
        """No request is read any more."""
        self._reader.deafen()
        self._reader.events.clear()
        self._held = b""

    def _say(self, words: bytes) -> None:
        self._farewell = b""
        if not self.transport.is_closing():
            self.transport.write(words)
            self.linger()

    def linger(self) -> None:
        """Ends our half of the connection and gives the client a moment to take what was said."""
        self._be_deaf()
        if not self.transport.is_closing():
            self.flow.resume_reading()
        if self._heard_out:
            self._ending.whole()
        else:
            self._ending.half()

    def shut(self) -> None:
        """Closes once all that is written has been taken, or when the client has had its time for that."""
        self._be_deaf()
        self._ending.whole()

    def _be_deaf(self) -> None:
        self._deafen()
        self._read_clock.stop()
        self._idle.stop()
