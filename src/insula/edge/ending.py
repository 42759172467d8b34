"""How a connection ends, so that its client has the whole of the last answer.

A socket that is closed while its client still sends answers with a reset, and a reset takes from the client's hands what
it has not read yet. So our half is closed first: the client sees the end, what it still sends is read and thrown away, and
the socket is closed when the client has closed its own half, or has had its time. A client that still takes what was
written has more time the more it takes; one that takes nothing is cut off.
"""

from __future__ import annotations

import asyncio
import math

from insula.edge.limits import ConnectionLimits


class Ending:
    """The end of one connection. `begun` is set by the first word of it, and nothing is said after that."""

    __slots__ = ("_left", "_limits", "_loop", "_timer", "_transport", "begun")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, limits: ConnectionLimits) -> None:
        self.begun = False
        self._transport = transport
        self._loop = loop
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._left = math.inf  # bytes that were not sent when the timer last looked

    def half(self) -> None:
        """Ends our half once all that is written has been sent, and waits a moment for the client's. Where the transport
        has no halves (TLS), the whole."""
        if not self._transport.can_write_eof():
            self.whole()
        elif not self._transport.is_closing():
            self._transport.write_eof()
            self._begin(self._limits.linger)

    def whole(self) -> None:
        """Closes once all that is written has been sent; what the client still sends is not read."""
        if not self._transport.is_closing():
            self._transport.close()
        self._begin(self._limits.write_timeout)

    def stop(self) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self, seconds: float) -> None:
        self.begun = True
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        limits = self._limits
        unsent = self._transport.get_write_buffer_size()
        if unsent and self._left - unsent >= limits.min_rate * limits.write_timeout:
            self._left = unsent
            self._timer = self._loop.call_later(limits.write_timeout, self._look)
        else:
            self._transport.abort()
