"""What slow clients may make this server hold, all of them together: bodies that still come, requests sent ahead, answers
that are not read.

Each connection has its bounds in bytes and in time, but thousands of connections times megabytes times minutes is more
than a machine has. So their sum has a bound as well. Where it is passed, those give up who hold most: of the tenant (a
service, or a client's address) that has most of the bytes, the holder that began first, until the rest fits. A client that
takes part is done long before it is the oldest, and one that only holds on makes room for it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import termios
from typing import Protocol

_log = logging.getLogger("insula.edge")


class Holder(Protocol):
    """Who holds bytes: a body on its way, a connection with an answer."""

    def give_up(self) -> None:
        """Lets go of them. It is not counted from then on, unless it notes bytes again, and then it may be told again."""


class Backlog:
    """At most `most` bytes, unless one holder alone has more: what each may have is bounded where it is held."""

    def __init__(self, most: int = 256 << 20) -> None:
        self.held = 0
        self.most = most
        self._tenants: dict[str, _Tenant] = {}
        self._of: dict[Holder, _Tenant] = {}

    def hold(self, holder: Holder, size: int, tenant: str = "") -> None:
        """Notes how many bytes a holder has now. Others, or this one, may be told to give theirs up. A holder keeps the
        tenant that it was first noted with."""
        of = self._of.get(holder)
        if of is None:
            of = self._tenants.get(tenant)
            if of is None:
                of = self._tenants[tenant] = _Tenant(tenant)
            self._of[holder] = of
        more = size - of.sizes.get(holder, 0)
        self.held += more
        of.held += more
        of.sizes[holder] = size
        while self.held > self.most and len(self._of) > 1:
            greediest = max(self._tenants.values(), key=lambda each: each.held)
            oldest = next(iter(greediest.sizes))
            self.release(oldest)
            try:
                oldest.give_up()
            except Exception:  # which is no fault of the one that asks for room
                _log.exception("what slow clients hold could not be given up")

    def release(self, holder: Holder) -> None:
        """The holder has nothing any more. Idempotent."""
        of = self._of.pop(holder, None)
        if of is not None:
            size = of.sizes.pop(holder)
            self.held -= size
            of.held -= size
            if not of.sizes:
                del self._tenants[of.name]


class _Tenant:
    """The holders of one tenant, the one that began first before the others."""

    __slots__ = ("held", "name", "sizes")

    def __init__(self, name: str) -> None:
        self.name = name
        self.held = 0
        self.sizes: dict[Holder, int] = {}


def untaken(transport: asyncio.WriteTransport) -> int:
    """Bytes of an answer that the client has not taken. What the system has taken for it counts too: while any of that is
    left, the whole answer stays in memory."""
    sock = transport.get_extra_info("socket")
    try:
        taken = int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:  # a system that does not tell
        taken = 0
    return transport.get_write_buffer_size() + taken
