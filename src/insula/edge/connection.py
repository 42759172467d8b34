"""One connection of a port that is open to strangers: its life from the handshake to the last byte, whatever it speaks.

The policy
- A client has a bounded time for each thing that it begins: its first byte, a head, a body, taking its answer. A body has
  more time the more of it came, and none runs while the server itself has paused reading.
- Over the limit of connections a client gets a whole 503; too many of those at once are cut off.
- The last answer of a connection is followed by a half close and a short wait, since a reset would take the answer from the
  client's hands.
- A request that asks for it may have the connection become another protocol's (become.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from insula.edge.become import Guest, Successor
from insula.edge.clocks import KeepAlive, ReadClock, WriteClock
from insula.edge.connections import TURNED_AWAY, Connections
from insula.edge.ending import Ending
from insula.edge.flow import Flow
from insula.edge.http1 import Reader
from insula.edge.last_words import Last

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


class Connection(asyncio.Protocol):
    """One connection. `flow` and `transport` are there once it is made. What is said on it is its subclass's."""

    __slots__ = (
        *(
            "__weakref__",
            "_changes",
            "_client",
            "_ending",
            "_farewell",
            "_heard_out",
            "_held",
            "_idle",
            "_last",
            "_made",
        ),
        *("_moment", "_read_clock", "_reader", "_request", "_scheme", "_server", "_turned_away", "_write_clock"),
        *("address", "flow", "limits", "loop", "shared", "transport"),
    )

    transport: asyncio.Transport
    flow: Flow

    def __init__(self, shared: Connections, loop: asyncio.AbstractEventLoop) -> None:
        self.shared = shared
        self.limits = shared.limits
        self.loop = loop
        self.address = ""  # of the client
        self._reader = Reader(shared.limits, shared.upgrades)
        self._request: UnderWay | None = None
        self._held = b""  # came while a request waits for the one before it
        self._farewell = b""  # the last answer, due when the one under way has been given
        self._made = 0.0  # when, of the loop's time
        self._moment: asyncio.TimerHandle | None = None  # that a client has before its connection ends
        self._turned_away = False
        self._heard_out = False  # the client has ended its half
        self._last = False  # no request follows the present one, or the next where there is none
        self._changes = False  # the request under way may have the connection become another protocol's

    # its life

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
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        self._held = self._farewell = b""

    def _part(self) -> None:
        """Leaves no circle behind: a connection goes with its last reference, not at some later look of the collector."""
        self._reader.close()
        self._request = None
        self._idle = self._read_clock = self._write_clock = None  # type: ignore[assignment]

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
            self._wait(MOMENT, self._shut_quiet)
        else:
            self.shut()

    def _stop_after(self) -> None:
        """The request under way is the last one, unless another one has come, which then is."""
        if self._request is not None and not self._reader.events and not self._held:
            self._request.keep_alive = False

    def _wait(self, seconds: float, end: Callable[[], None]) -> None:
        """The client has a moment before its connection ends."""
        if self._moment is not None:
            self._moment.cancel()
        self._moment = self.loop.call_later(seconds, end)

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
        """The client is gone, or has no more to say, which cannot be told apart: what was written has its time, and what
        has come is still answered, where each answer may take a moment (`HEARD_OUT`). Whether the transport stays open."""
        if not self.busy() and not self._held:
            self._ending.whole()
            return False
        self._heard_out = True
        self._stop_after()
        self._wait(HEARD_OUT, self._lose_patience)
        return True

    def _lose_patience(self) -> None:
        if self._held and not self.busy():  # it is the server that is late, or the client takes its answers slowly
            self._wait(HEARD_OUT, self._lose_patience)
        elif not self._ending.begun:
            self._ending.whole()

    def _rest(self) -> None:
        """All that has come is answered."""
        if self._heard_out:
            self.shut()
            return
        if self._last:  # the stop has left a moment for the rest of a request that has begun
            self._wait(MOMENT, self._shut_quiet)
        self._idle.start()

    def abort(self) -> None:
        """Ends the connection at once, whatever is under way."""
        self.transport.abort()

    def busy(self) -> bool:
        """Whether a request is being answered, or is still coming."""
        return self._request is not None and not self._request.over

    def has_more(self) -> bool:
        """Whether something has come, or is under way, so that the connection is not idle."""
        return bool(self._held) or self.busy()

    def waits(self) -> bool:
        """Whether what has come waits for a turn of this server's."""
        return False

    def default_fields(self) -> list[tuple[bytes, bytes]]:
        """The fields of every answer of this listener."""
        return self.shared.default_fields

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._write_clock.start()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        self._write_clock.stop()

    # its end

    def fail(self, last: Last) -> None:
        """Ends the connection with `last` as the answer to what comes next, after the answers that are due before it."""
        raise NotImplementedError

    def answered_early(self) -> bool:
        """Whether the request whose body is coming has its answer."""
        raise NotImplementedError

    def _deafen(self) -> None:
        """No request is read any more."""
        self._reader.deafen()
        self._reader.events.clear()
        self._held = b""

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
