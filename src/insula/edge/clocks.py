"""The clocks of one connection: how long its client may take for each thing, and how long it may be idle."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

from insula.edge.backlog import untaken
from insula.edge.connections import Connections
from insula.edge.flow import Flow
from insula.edge.http1 import Reader, Stage
from insula.edge.last_words import Last
from insula.edge.limits import ConnectionLimits


class Timed(Protocol):
    """A connection as its clocks see it."""

    transport: asyncio.Transport
    flow: Flow
    limits: ConnectionLimits
    loop: asyncio.AbstractEventLoop
    shared: Connections
    address: str

    def busy(self) -> bool: ...
    def waits(self) -> bool: ...
    def has_more(self) -> bool: ...
    def answered_early(self) -> bool: ...
    def fail(self, last: Last) -> None: ...
    def linger(self) -> None: ...
    def shut(self) -> None: ...
    def abort(self) -> None: ...


class _Clock:
    """One timer of a connection."""

    __slots__ = ("_connection", "_timer")

    def __init__(self, connection: Timed) -> None:
        self._connection = connection
        self._timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Nothing is waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, seconds: float) -> None:
        self._timer = self._connection.loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        """The time is over."""
        raise NotImplementedError


class ReadClock(_Clock):
    """One timer for what is read: the first byte, a head, a body, the rest of a body that was answered already. A body has
    more time the more of it came, and none runs while the server itself has paused reading."""

    __slots__ = ("_awaited", "_reader", "_since")

    def __init__(self, connection: Timed, reader: Reader) -> None:
        super().__init__(connection)
        self._reader = reader
        self._awaited = 0  # the stage that the timer is set for; 0 for none, -1 for the first byte
        self._since = 0.0

    @property
    def awaits(self) -> bool:
        """Whether anything is timed."""
        return self._awaited != 0

    def first_byte(self) -> None:
        """The connection is made."""
        self._awaited = -1
        self._set(self._connection.limits.first_byte_timeout)

    def watch(self) -> None:
        """Sets the timer for the head or body that is on its way, once, or stops it where none is."""
        reader, limits = self._reader, self._connection.limits
        if reader.stage is Stage.BODY:
            seconds = limits.body_timeout
        elif reader.stage is Stage.HEAD and reader.begun:
            seconds = limits.head_timeout
        else:
            seconds = 0.0
        awaited = reader.stages if seconds else 0
        if awaited != self._awaited:
            self._awaited = awaited
            self.stop()
            if seconds:
                self._since = self._connection.loop.time()
                self._set(seconds)

    def after_answer(self) -> None:
        """The request was answered, and the rest of its body has a moment."""
        self.stop()
        self._set(self._connection.limits.linger)

    def _ring(self) -> None:
        self._timer = None
        connection, limits = self._connection, self._connection.limits
        if connection.waits():  # it is the server that is late
            self._set(limits.head_timeout)
        elif self._reader.stage is Stage.HEAD:
            if connection.busy():
                self._set(limits.head_timeout)
            elif self._awaited < 0:
                connection.shared.dropped("silent")
                connection.shut()
            else:
                connection.fail(Last.HEAD_TIMEOUT)
        elif self._reader.stage is Stage.BODY:
            if connection.answered_early():
                connection.linger()
            else:
                self._body_is_late()

    def _body_is_late(self) -> None:
        connection, limits = self._connection, self._connection.limits
        now = connection.loop.time()
        if connection.flow.read_paused:
            self._since = now
        left = self._since + limits.body_timeout + self._reader.body_bytes / limits.min_rate - now
        if left > 0:
            self._set(left)
        else:
            connection.fail(Last.BODY_TIMEOUT)


class WriteClock(_Clock):
    """Times a client that does not take what is written, and counts that for the listener. Who takes enough gets more time;
    who does not is cut off."""

    __slots__ = ("_unsent",)

    def __init__(self, connection: Timed) -> None:
        super().__init__(connection)
        self._unsent = 0

    def start(self) -> None:
        """The client does not take what is written."""
        connection = self._connection
        transport = connection.transport
        self._unsent = transport.get_write_buffer_size()
        connection.shared.unread.hold(self, untaken(transport), connection.address)
        self._set(connection.limits.write_timeout)

    def stop(self) -> None:
        """It has taken enough, or is gone."""
        self._connection.shared.unread.release(self)
        super().stop()

    def give_up(self) -> None:
        """The unread answer is needed as room for others."""
        self._connection.shared.dropped("slow_reader")
        self._connection.abort()

    def _ring(self) -> None:
        limits = self._connection.limits
        unsent = self._connection.transport.get_write_buffer_size()
        if self._unsent - unsent >= limits.min_rate * limits.write_timeout:
            self._unsent = unsent
            self._set(limits.write_timeout)
        else:
            self.give_up()


class KeepAlive(_Clock):
    """Ends a connection that is idle. The timer is not set anew at each answer: `since` is when the last one was given, of
    time.monotonic(), and a timer that rings too early goes on for what is left."""

    __slots__ = ("since",)

    def __init__(self, connection: Timed) -> None:
        super().__init__(connection)
        self.since = 0.0

    @property
    def runs(self) -> bool:
        """Whether the timer is set."""
        return self._timer is not None

    def start(self) -> None:
        """An answer was given."""
        self.since = monotonic()
        if self._timer is None:
            self._set(self._connection.limits.keep_alive_timeout)

    def _ring(self) -> None:
        self._timer = None
        connection = self._connection
        idle = 0.0 if connection.has_more() else monotonic() - self.since
        left = connection.limits.keep_alive_timeout - idle
        if left > 0:
            self._set(left)
        else:
            connection.shut()
