"""A listener: one bound socket, one application, in the loop that is already running.

The socket is bound before anything else is started, so that a port in use is one plain line and not a failed start.
Several listeners share one loop and none touches a signal: the server decides when they stop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from functools import partial
from ssl import SSLContext

from insula.edge.acceptor import Acceptor
from insula.edge.asgi import App
from insula.edge.connections import Connections
from insula.edge.fast_connection import FastConnection
from insula.edge.http_connection import HttpConnection
from insula.edge.lane import Lane
from insula.edge.limits import ConnectionLimits
from insula.errors import ConfigurationError

_log = logging.getLogger("insula.edge")

BACKLOG = 2048
#: Seconds that cancelled requests have to give their last answer.
LAST_ANSWERS = 1.0


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening TCP socket. ConfigurationError, in one line, names the port and the `option` that changes it.

    `port` 0 takes a free one. `::` takes IPv4 as well. May look a name up, so it is called before the loop runs.
    """
    hint = f"choose another with {option}"
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"{port} is not a port", hint=hint)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigurationError(f"{host!r} port {port} is not an address to listen on", hint=hint) from None
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(f"port {port} on {host} is in use", hint=f"stop what uses it, or {hint}") from None
        if error.errno == errno.EACCES:
            raise ConfigurationError(f"port {port} on {host} is not open to this user", hint=hint) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError(f"this machine has no address {host} for port {port}", hint=hint) from None
        raise ConfigurationError(f"port {port} on {host} cannot be listened on", hint=hint) from None
    sock.setblocking(False)
    return sock


class Listener:
    """Serves an ASGI application on a socket of `bind`. `dropped` is told, by reason, of each connection that ends
    without the application's answer. `lane` is a fast lane into the same application, `ssl` the context of a port with
    TLS, and `upgrades` says whether a path (the target of a request) changes to a protocol."""

    def __init__(
        self,
        app: App,
        sock: socket.socket,
        limits: ConnectionLimits | None = None,
        *,
        dropped: Callable[[str], None] = lambda reason: None,
        ssl: SSLContext | None = None,
        lane: Lane | None = None,
        upgrades: Callable[[bytes, bytes], bool] = lambda target, protocol: False,
    ) -> None:
        self._sock = sock
        self._ssl = ssl
        self._lane = lane
        self._shared = Connections(app, limits or ConnectionLimits(), dropped=dropped, upgrades=upgrades)
        self._acceptor: Acceptor | None = None
        self.host, self.port = sock.getsockname()[:2]

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host)  # noqa: S104 - compared, not bound
        host = host or (f"[{self.host}]" if ":" in self.host else self.host)
        return f"{'https' if self._ssl else 'http'}://{host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._shared)

    async def start(self) -> None:
        """Returns once connections are accepted."""
        shared, loop = self._shared, asyncio.get_running_loop()
        shared.start_clock()
        make: Callable[[], asyncio.BaseProtocol] = (
            partial(FastConnection, shared, loop, self._lane) if self._lane else partial(HttpConnection, shared, loop)
        )
        self._acceptor = Acceptor(self._sock, make, self._ssl, has_room=self._has_room)

    def _has_room(self, under_way: int) -> bool:
        if self._shared.has_room(under_way):
            return True
        self._shared.dropped("cut_off")
        return False

    async def stop(self, grace: float) -> None:
        """Accepts no more, ends idle connections, gives requests under way `grace` seconds, then ends those as well.

        The application sees a cancellation where the grace is over, and may still give a whole answer. A second call
        with a shorter grace hurries the first one."""
        if self._acceptor is None:
            self._sock.close()
            return
        shared = self._shared
        if not shared.stopping:
            shared.stopping = True
            await self._acceptor.close()
        for connection in list(shared.live):
            connection.shutdown()
        if not await shared.emptied(grace):
            self._cut_off()
            if not await shared.emptied(LAST_ANSWERS):
                for connection in list(shared.live):
                    connection.abort()
                await shared.emptied(LAST_ANSWERS)
        if shared.tasks:
            await asyncio.wait(shared.tasks, timeout=LAST_ANSWERS)
        shared.stop_clock()

    def _cut_off(self) -> None:
        shared, loop = self._shared, asyncio.get_running_loop()
        cut = sum(connection.cut_off() for connection in list(shared.live)) + len(shared.tasks)
        for task in shared.tasks:
            loop.call_soon(task.cancel, "the server stops")  # one that has not begun would end without an answer
        if cut:
            _log.warning("%d requests on port %d were cut off by the stop", cut, self.port)
