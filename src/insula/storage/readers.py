"""Reading beside the writer: a few threads, each with a connection of its own that cannot write.

A unit sees one consistent state of the database, the last one committed when it began. A connection found lost is made
anew and the unit runs again once.

Each service has a share of the places of those that wait, and they take turns (see `turns`). The server's own reads have
a thread of their own: reads of services that take long delay none of them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from insula.background import fail, unheard
from insula.errors import UnavailableError
from insula.storage.faults import Fault, diagnose, refusal
from insula.storage.link import Link
from insula.storage.presence import Presence
from insula.storage.turns import SERVER, Places, Turns
from insula.threads import Threads

log = logging.getLogger("insula.storage")

T = TypeVar("T")

#: Reads that are handed to the threads for each of them: one under way, one that follows without a turn of the loop.
_AHEAD = 2
#: Seconds that `close` waits for reads.
CLOSE_WITHIN = 30.0


class _Reading:
    __slots__ = ("future", "tenant", "unit")

    def __init__(self, unit: Callable[[Connection], Any], tenant: str, future: asyncio.Future[Any]) -> None:
        self.unit = unit
        self.tenant = tenant
        self.future = future


class Readers:
    """Owns the threads and their connections. Everything but `_read` belongs to the loop."""

    def __init__(self, engine: Engine, *, threads: int, max_waiting: int, presence: Presence | None = None) -> None:
        self._engine = engine
        self._presence = presence
        self._own = threading.local()
        self._places = Places(max_waiting, "reads")
        self._turns: Turns[_Reading] = Turns()
        self._under_way = 0  # of services
        self._most = threads * _AHEAD
        self._empty = asyncio.Event()  # no read of a service waits or is under way
        self._threads = Threads(threads, "insula-reader", leave=self._leave)
        self._server_thread = Threads(1, "insula-reader-own", leave=self._leave)
        for each in (self._server_thread, self._threads):
            each.start()

    async def run(self, unit: Callable[[Connection], T], tenant: str) -> T:
        """The unit's result. LimitError where the tenant's share of the places is used up, UnavailableError where the
        system gives no thread. A caller who leaves early takes back a unit that has not begun."""
        self._places.enter(tenant)
        reading = _Reading(unit, tenant, asyncio.get_running_loop().create_future())
        if tenant == SERVER:
            self._begin(self._server_thread, reading)
        else:
            self._turns.put(reading)
            self._empty.clear()
            self._next()
        return await reading.future  # type: ignore[no-any-return]

    def _next(self) -> None:
        """Hands reads of services to the threads, as many as may be under way."""
        while self._turns and self._under_way < self._most:
            reading = self._turns.take()
            if reading.future.done():  # its caller has left
                self._places.leave(reading.tenant)
                continue
            self._begin(self._threads, reading)
        if not self._turns and not self._under_way:
            self._empty.set()

    def _begin(self, threads: Threads, reading: _Reading) -> None:
        # The place is given back by the work in the thread, not the caller: one who leaves early still holds it.
        try:
            work = threads.run(self._read, reading.unit)
        except UnavailableError as error:
            self._places.leave(reading.tenant)
            fail(reading.future, error)
            return
        if reading.tenant != SERVER:
            self._under_way += 1
        work.add_done_callback(lambda work: self._done(reading, work))

    def _done(self, reading: _Reading, work: asyncio.Future[Any]) -> None:
        self._places.leave(reading.tenant)
        if reading.tenant != SERVER:
            self._under_way -= 1
            self._next()
        waiting = reading.future
        error = work.exception()
        if waiting.done():
            unheard(error, "a read")
        elif error is not None:
            fail(waiting, error)
        else:
            waiting.set_result(work.result())

    async def close(self) -> None:
        """Waits for the reads that are under way or wait; the threads then close their connections. What takes longer than
        `CLOSE_WITHIN` is left to the end of the process."""
        loop = asyncio.get_running_loop()
        end = loop.time() + CLOSE_WITHIN
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                if self._turns or self._under_way:
                    await self._empty.wait()
        pools = (self._threads, self._server_thread)
        for threads in pools:
            threads.close()
        for threads in pools:
            if not await threads.ended(max(0.0, end - loop.time())):
                log.error("reads of the database did not end within %d s, and are left", CLOSE_WITHIN)

    def _leave(self) -> None:
        """Closes the connection of the thread that calls it."""
        link: Link | None = getattr(self._own, "link", None)
        if link is not None:
            link.close()

    def _read(self, unit: Callable[[Connection], T]) -> T:
        link: Link | None = getattr(self._own, "link", None)
        if link is None:
            link = self._own.link = Link(self._engine, self._presence)
        try:
            return self._once(link, unit)
        except DBAPIError as error:
            if diagnose(error) is not Fault.LOST:
                raise refusal(error) from None
        try:
            return self._once(link, unit)
        except DBAPIError as error:
            raise refusal(error) from None

    @staticmethod
    def _once(link: Link, unit: Callable[[Connection], T]) -> T:
        connection = link.connection()
        try:
            with connection.begin():
                return unit(connection)
        except DBAPIError:
            link.close()
            raise
