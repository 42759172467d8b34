"""Reading beside the writer: a few threads, each with a connection of its own that cannot write.

A unit sees one consistent state of the database, the last one committed when it began. A connection found lost is made
anew and the unit runs again once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from insula.errors import LimitError
from insula.storage.faults import Fault, diagnose, refusal
from insula.storage.link import Link
from insula.storage.presence import Presence

T = TypeVar("T")


class Readers:
    """Owns the threads and their connections. Everything but `_read` belongs to the loop."""

    def __init__(self, engine: Engine, *, threads: int, max_waiting: int, presence: Presence | None = None) -> None:
        self._engine = engine
        self._presence = presence
        self._max_waiting = max_waiting
        self._waiting = 0
        self._own = threading.local()
        self._links: list[Link] = []
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="insula-reader")

    async def run(self, unit: Callable[[Connection], T]) -> T:
        """The unit's result. LimitError where too many wait."""
        if self._waiting >= self._max_waiting:
            raise LimitError("too many reads are waiting for the database", hint="try again", retry_after=1)
        self._waiting += 1
        # The count follows the work in the thread, not the caller: one who leaves early still holds a place.
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._read, unit)
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, future: asyncio.Future[T]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # seen, so that asyncio does not report it where the caller has left

    async def close(self) -> None:
        """Waits for the reads that are under way, then closes the connections."""
        await asyncio.to_thread(self._executor.shutdown, wait=True)
        for link in self._links:
            await asyncio.to_thread(link.close)

    def _read(self, unit: Callable[[Connection], T]) -> T:
        link: Link | None = getattr(self._own, "link", None)
        if link is None:
            link = self._own.link = Link(self._engine, self._presence)
            self._links.append(link)
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
