"""Accepts the connections of a listening socket, a bounded number in a turn of the event loop.

uvloop's own server accepts one connection in a turn. In a loop whose turns are long, a thousand new clients then keep the
next one waiting for a thousand turns. Accepting all that wait makes one turn as long as there are clients.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from array import array
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from insula.background import Tasks

_log = logging.getLogger("insula.edge")

#: Connections that are accepted in one turn, and seconds after which it is enough. Each takes some 30 microseconds, half of
#: it in the next turn; more where other threads run, since each system call may have to wait for the interpreter.
AT_ONCE = 32
BUDGET = 0.001
#: Seconds until accepting is tried again after the system had no descriptor or memory for a connection.
PAUSE = 0.5
#: Seconds for which that is not said again.
QUIET = 60.0
#: Turns in which the last connections are accepted: the system lets no more of them wait.
MOST = 4096

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
#: Linux: what comes to a socket passes a filter first (socket(7)). This one is `ret #0`: it lets nothing through.
_SO_ATTACH_FILTER = 26
_RETURN_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)


class Acceptor:
    """Makes a protocol, by `make`, for each connection of `sock`, which listens and does not block. `ssl` is the context of
    a port with TLS. `has_room` is asked with the number of connections that are being made: where it answers False, the
    next one is closed at once."""

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[], asyncio.BaseProtocol],
        ssl: Any = None,
        *,
        has_room: Callable[[int], bool] = lambda under_way: True,
    ) -> None:
        self._sock = sock
        self._make = make
        self._ssl = ssl
        self._has_room = has_room
        self._under_way = 0
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._again: asyncio.TimerHandle | None = None
        self._quiet_until = 0.0
        self._closing = False
        self._loop.add_reader(sock, self._accept)

    async def close(self) -> None:
        """Accepts what has connected until now, as far as there are descriptors, and closes the socket. Returns once each
        of those has its protocol; a client that connects from now on is refused by the system."""
        self._closing = True
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._sock)
        self._turn_away()
        try:
            for _ in range(MOST):
                if not self._accept():
                    break
                await asyncio.sleep(0)
        finally:
            self._sock.close()
        if self._ssl is None:  # a handshake may take its time
            await self._tasks.ended(1.0)

    def _accept(self) -> bool:
        """Accepts some connections; whether more may wait."""
        until = monotonic() + BUDGET
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # that client has gone already
                self._pause(error)
                return False
            if self._has_room(self._under_way):
                connection.setblocking(False)
                self._under_way += 1
                self._tasks.start(self._connect(connection), "a new connection")
            else:
                connection.close()
            if monotonic() >= until:
                break
        return True

    async def _connect(self, connection: socket.socket) -> None:
        # uvloop logs what is wrong with a handshake; the client of a connection that fails has left or is no client.
        try:
            with suppress(OSError, TimeoutError):
                await self._loop.connect_accepted_socket(self._make, connection, ssl=self._ssl)
        finally:
            self._under_way -= 1

    def _pause(self, error: OSError) -> None:
        """The clients wait in the system's queue until descriptors are free."""
        if monotonic() >= self._quiet_until:
            self._quiet_until = monotonic() + QUIET
            _log.error(
                "no more connections can be accepted (%s): raise ulimit -n, or lower limits.max_connections", error
            )
        if not self._closing:
            self._loop.remove_reader(self._sock)
            self._again = self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        self._again = None
        self._loop.add_reader(self._sock, self._accept)

    def _turn_away(self) -> None:
        """Lets nobody connect any more. Between the last accept and the close of a socket a client could connect, send a
        request and get a reset. Where the system has no such filters, that moment is left."""
        with suppress(OSError):
            code = array("B", _RETURN_NOTHING)
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, code.buffer_info()[0]))
