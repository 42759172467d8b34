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
from typing import Any

import uvicorn

from insula.background import told
from insula.edge.acceptor import Acceptor
from insula.edge.fast_connection import FastConfig
from insula.edge.lane import Lane
from insula.edge.limits import Limits
from insula.edge.listener import TURNED_AWAY, HttpConnection
from insula.edge.listener_config import ListenerConfig
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
    without the application's answer. `lane` is a fast lane into the same application."""

    def __init__(
        self,
        app: Any,
        sock: socket.socket,
        limits: Limits | None = None,
        *,
        dropped: Callable[[str], None] | None = None,
        ssl_context_factory: Any = None,
        lane: Lane | None = None,
    ) -> None:
        self._sock = sock
        self._empty = asyncio.Event()
        shared = (app, limits or Limits(), dropped or (lambda reason: None), self._empty.set, ssl_context_factory)
        self._config = FastConfig(*shared, lane=lane) if lane else ListenerConfig(*shared, HttpConnection)
        self._server = uvicorn.Server(self._config)
        self._acceptor: Acceptor | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._stopped = False
        self.host, self.port = sock.getsockname()[:2]

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host)  # noqa: S104 - compared, not bound
        host = host or (f"[{self.host}]" if ":" in self.host else self.host)
        return f"{'https' if self._config.ssl_context_factory else 'http'}://{host}:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._server.server_state.connections)

    async def start(self) -> None:
        """Returns once connections are accepted."""
        self._config.load()
        server = self._server
        server.lifespan = self._config.lifespan_class(self._config)
        await server.on_tick(0)  # the date header exists before the first answer
        config = self._config
        make = partial(config.protocol, config, server.server_state, server.lifespan.state)
        self._acceptor = Acceptor(self._sock, make, config.ssl, has_room=self._has_room)
        what = f"the clock of port {self.port}"
        self._ticker = told(asyncio.create_task(server.main_loop()), what, endless=True)

    def _has_room(self, under_way: int) -> bool:
        """Whether a client may have a connection, if only to be told that there are too many."""
        if len(self._server.server_state.connections) + under_way < self._config.limits.max_connections + TURNED_AWAY:
            return True
        self._config.dropped("cut_off")
        return False

    async def stop(self, grace: float) -> None:
        """Accepts no more, ends idle connections, gives requests under way `grace` seconds, then ends those as well.

        The application sees a cancellation where the grace is over, and may still give a whole answer. A second call
        with a shorter grace hurries the first one."""
        if self._ticker is None:
            self._sock.close()
            return
        server = self._server
        state = server.server_state
        if not self._stopped:
            self._stopped = True
            self._config.stopping = True
            assert self._acceptor is not None
            await self._acceptor.close()
        self._empty.clear()
        for connection in list(state.connections):
            connection.shutdown()
        if not await self._emptied(grace):
            late = [c for c in list(state.connections) if isinstance(c, HttpConnection) and c.cut_off()]
            cut = len(late) + len(state.tasks)
            if cut:
                _log.warning("%d requests on port %d were cut off by the stop", cut, self.port)
            for task in list(state.tasks):
                task.cancel("the server stops")
            if not await self._emptied(LAST_ANSWERS):
                for connection in list(state.connections):
                    if isinstance(connection, HttpConnection):
                        connection.abort()
                await self._emptied(LAST_ANSWERS)
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=LAST_ANSWERS)
        self._ticker.cancel()
        await asyncio.wait([self._ticker])

    async def _emptied(self, seconds: float) -> bool:
        """Waits until no connection is left; False where some are when the time is over."""
        if not self._server.server_state.connections:
            return True
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return False
        return True
