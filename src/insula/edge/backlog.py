"""What slow clients may make this server hold, all of them together: bodies that still come, answers that are not read.

Each connection has its bounds in bytes and in time, but thousands of connections times megabytes times minutes is more
than a machine has. So their sum has a bound as well. Where it is passed, whoever has held bytes for the longest time gives
them up, until the rest fits: a client that takes part is done long before it is the oldest, and one that only holds on
makes room for it.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from typing import Protocol


class Holder(Protocol):
    """Who holds bytes: a body on its way, a connection with an answer."""

    def give_up(self) -> None:
        """Lets go of them; told once, and not counted from then on."""


class Backlog:
    """At most `most` bytes, unless one holder alone has more: what each may have is bounded where it is held."""

    def __init__(self, most: int = 256 << 20) -> None:
        self.held = 0
        self.most = most
        self._sizes: dict[Holder, int] = {}  # the one that began first stands first

    def hold(self, holder: Holder, size: int) -> None:
        """Notes how many bytes a holder has now. Others, or this one, may be told to give theirs up."""
        self.held += size - self._sizes.get(holder, 0)
        self._sizes[holder] = size
        while self.held > self.most and len(self._sizes) > 1:
            oldest = next(iter(self._sizes))
            self.release(oldest)
            oldest.give_up()

    def release(self, holder: Holder) -> None:
        """The holder has nothing any more. Idempotent."""
        self.held -= self._sizes.pop(holder, 0)


def untaken(transport: asyncio.WriteTransport) -> int:
    """Bytes of an answer that the client has not taken. What the system has taken for it counts too: while any of that is
    left, the whole answer stays in memory."""
    sock = transport.get_extra_info("socket")
    try:
        taken = int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:  # a system that does not tell
        taken = 0
    return transport.get_write_buffer_size() + taken
