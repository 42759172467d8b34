"""The live connections of one listener, whatever they have become, and what they share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Protocol

from insula.edge.asgi import App
from insula.edge.backlog import Backlog
from insula.edge.limits import ConnectionLimits

#: Connections over the limit that may be taking their 503 at once.
TURNED_AWAY = 64


class Live(Protocol):
    """A connection as its listener sees it, which may speak any protocol."""

    def shutdown(self) -> None:
        """The listener stops: ends the connection once what is under way on it is done."""

    def cut_off(self) -> bool:
        """What is under way has had its grace: it gets its last answer now. Whether there was anything."""

    def abort(self) -> None:
        """Ends the connection at once."""


class Connections:
    """The registry, and what its connections share: the application, their limits, the fields of every answer, whom to tell
    what was dropped. `upgrades` says whether a path (the target of a request) changes to a protocol."""

    def __init__(
        self,
        app: App,
        limits: ConnectionLimits,
        *,
        dropped: Callable[[str], None],
        upgrades: Callable[[bytes, bytes], bool] = lambda target, protocol: False,
    ) -> None:
        self.app = app
        self.limits = limits
        self.dropped = dropped
        self.upgrades = upgrades
        self.unread = Backlog(limits.max_unread)
        self.live: set[Live] = set()
        self.tasks: set[asyncio.Task[Any]] = set()  # that answer requests
        self.turned_away = 0
        self.stopping = False  # who connects from now on has one request
        self.default_fields: list[tuple[bytes, bytes]] = []
        self._empty = asyncio.Event()
        self._tick: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.live)

    def has_room(self, under_way: int) -> bool:
        """Whether a client may have a connection, if only to be told that there are too many."""
        return len(self.live) + under_way < self.limits.max_connections + TURNED_AWAY

    def add(self, connection: Live) -> bool:
        """A connection was made; whether it is within the limit."""
        self.live.add(connection)
        return len(self.live) - self.turned_away <= self.limits.max_connections

    def replace(self, connection: Live, successor: Live) -> None:
        """A connection has become another one."""
        self.live.discard(connection)
        self.live.add(successor)

    def remove(self, connection: Live) -> None:
        """A connection is gone. Idempotent."""
        self.live.discard(connection)
        if not self.live:
            self._empty.set()

    def add_task(self, task: asyncio.Task[Any]) -> None:
        """A task answers a request."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def emptied(self, seconds: float) -> bool:
        """Waits until no connection is left; False where some are when the time is over."""
        if not self.live:
            return True
        self._empty.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def start_clock(self) -> None:
        """The date of every answer, from now on; a new list each second."""
        now = time.time()
        self.default_fields = [(b"date", formatdate(now, usegmt=True).encode())]
        self._tick = asyncio.get_running_loop().call_later(1.0 - now % 1.0, self.start_clock)

    def stop_clock(self) -> None:
        """The listener has stopped."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
