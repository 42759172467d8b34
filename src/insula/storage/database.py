"""The database of the server: opened once, one writer, readers beside it.

`write` answers only once the write is committed and on the disk (a group of callers shares that one commit, see
`writer`). A unit is a function of a SQLAlchemy connection: it runs its statements, returns a value and neither commits
nor keeps the connection. It may run more than once. On SQLite units are serialised; on PostgreSQL other servers may
write at the same time (READ COMMITTED), so a unit that reads in order to decide takes the row with `with_for_update()`.

Statements are built once, at the head of a module, with `bindparam`s: building one costs more than running it. Those that
guests cause are a `Statement` (`statements.py`), which costs the interpreter a tenth of SQLAlchemy's own execution.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy.engine import URL, Connection, Engine

from insula.errors import DeadlineError, UnavailableError
from insula.storage import migrate
from insula.storage.engine import create_file, describe, make_engine, parse_url
from insula.storage.link import Link
from insula.storage.presence import Presence
from insula.storage.readers import Readers
from insula.storage.turns import SERVER
from insula.storage.writer import Writer

T = TypeVar("T")


class Database:
    """Owner of every connection to one database. Belongs to the event loop that opened it."""

    def __init__(self, url: URL, writer: Writer, readers: Readers, timeout: float) -> None:
        self._writer = writer
        self._readers = readers
        self._timeout = timeout
        self._closed = False
        self.description = describe(url)

    @classmethod
    async def open(
        cls,
        url: str | Path,
        *,
        setting: str = "storage.url",
        max_waiting: int = 4096,
        reader_threads: int = 3,
        timeout: float = 10.0,
    ) -> Database:
        """Connects, brings the tables to the present revision where they are not, and starts the threads.

        `url` is `sqlite:///path`, the path of a SQLite file, or `postgresql://…`; `setting` is the key that it came
        from, for messages. `max_waiting` bounds the writes, and apart from them the reads, that wait, of which each
        service has a share; `timeout` (seconds) bounds each wait unless the caller says otherwise. ConfigurationError
        where the URL or the database cannot be used, UnavailableError where it is out of reach.
        """
        link, engine = await asyncio.to_thread(_prepare, url, setting)
        readers = Readers(engine, threads=reader_threads, max_waiting=max_waiting, presence=link.presence)
        return cls(engine.url, Writer(link, max_waiting=max_waiting), readers, timeout)

    async def write(
        self,
        unit: Callable[[Connection], T],
        *,
        lock: str = "",
        tenant: str = SERVER,
        size: int = 0,
        timeout: float | None = None,
    ) -> T:
        """Runs the unit in a transaction; its result once that is committed and on the disk.

        What the unit raises is raised here, and nothing of it is written. LimitError where the tenant's share of the
        writes that wait is used up; DeadlineError after `timeout` seconds; UnavailableError where the database is out of
        reach or closed. A caller that is cancelled, or whose time is up, leaves the unit unbegun or carried out whole.
        `tenant` is the service that the write is for, and `size` the bytes that the unit holds; the server's own writes go
        first. `lock` names what the unit locks, where other servers lock it too: units that wait together are run in the
        order of these names.
        """
        wait = self._allowed(timeout)
        job = self._writer.submit(unit, lock, tenant, size)
        try:
            async with asyncio.timeout(wait) as limit:
                return await job.future
        except TimeoutError:
            if not limit.expired():
                raise
            if job.claim():
                raise DeadlineError("the write waited too long for its turn and was not made") from None
            raise DeadlineError(
                "the write took too long: it may or may not have been made",
                hint="read the present state before trying again",
                reason="outcome_unknown",
            ) from None
        finally:
            job.claim()

    async def read(self, unit: Callable[[Connection], T], *, tenant: str = SERVER, timeout: float | None = None) -> T:
        """Runs the unit in a transaction that sees one committed state and cannot write; its result. Errors as of
        `write`."""
        wait = self._allowed(timeout)
        reading: Awaitable[T] = self._readers.run(unit, tenant)
        try:
            async with asyncio.timeout(wait) as limit:
                return await reading
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineError("the read took too long") from None

    async def close(self) -> None:
        """Refuses what is new, carries out what waits, closes every connection. May be called twice."""
        self._closed = True
        await asyncio.gather(self._writer.close(), self._readers.close())

    def _allowed(self, timeout: float | None) -> float:
        if self._closed:
            raise UnavailableError("the database is closed: the server is stopping")
        wait = self._timeout if timeout is None else min(timeout, self._timeout)
        if wait <= 0:
            raise DeadlineError("the deadline passed before the database was asked")
        return wait


def _prepare(url: str | Path, setting: str) -> tuple[Link, Engine]:
    """The writer's link, with the tables as they must be, and the readers' engine."""
    parsed = parse_url(url, setting)
    create_file(parsed, setting)
    link = Link(make_engine(parsed, read_only=False))
    try:
        migrate.ensure(link, setting)
    except BaseException:
        link.close()
        raise
    link.presence = Presence(parsed)
    return link, make_engine(parsed, read_only=True)
