"""How a database is reached: the URL, the driver, and what every new connection is told before it is used.

Policy. SQLite is always in WAL mode with synchronous=FULL: what was committed is on the disk. A write begins with
BEGIN IMMEDIATE, so that it waits for the lock at its start and never finds "locked" where a read grows into a write.
PostgreSQL is spoken to by psycopg; synchronous_commit is on here even where the role has it off. Every wait on a
server has an end: connecting, a statement, a lock, a silent network. A password is in no message and in no log.
"""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from insula.errors import ConfigurationError

if TYPE_CHECKING:
    import sqlite3

BUSY_MS = 5_000
STATEMENT_MS = 30_000
CONNECT_SECONDS = 5
_AGAIN_SECONDS = 0.01

_EXAMPLES = "sqlite:///insula-data/insula.db or postgresql://user@host/database"
_POSTGRES_NAMES = ("postgres", "postgresql", "postgresql+psycopg")


def parse_url(place: str | Path, setting: str) -> URL:
    """The URL with the driver in it; ConfigurationError naming `setting` where it is none that can be used. A path is a
    SQLite file, whatever characters it has."""
    if isinstance(place, Path):
        return URL.create("sqlite+pysqlite", database=str(place.absolute()))
    try:
        url = make_url(place)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"{setting} is not a database URL", hint=f"for example {_EXAMPLES}") from None
    if url.drivername in _POSTGRES_NAMES:
        if importlib.util.find_spec("psycopg") is None:
            raise ConfigurationError(
                f"{setting} names a PostgreSQL database, and its driver is not installed",
                hint="pip install 'insula[postgres]'",
            )
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
            raise ConfigurationError(f"{setting} must name a SQLite file by its path", hint=f"for example {_EXAMPLES}")
        return url.set(drivername="sqlite+pysqlite")
    raise ConfigurationError(
        f"{setting} begins with {url.drivername!r}, which is neither sqlite nor postgresql",
        hint=f"write the URL without a driver name: {_EXAMPLES}",
    )


def describe(url: URL) -> str:
    """The database in words for the operator, without user or password."""
    if url.drivername.startswith("sqlite"):
        return f"the SQLite file {url.database}"
    where = url.host or url.query.get("host") or "the default host"
    return f"the PostgreSQL database {url.database or ''!r} at {where}{f':{url.port}' if url.port else ''}"


def scrub(text: str, url: URL) -> str:
    """The first line of a driver's message, without the password."""
    line = text.strip().partition("\n")[0]
    return line.replace(str(url.password), "***") if url.password else line


def make_engine(url: URL, *, read_only: bool) -> Engine:
    """An engine whose connections are prepared as the policy above says. It keeps no pool: each thread that works on
    the database keeps a connection of its own. Opens nothing."""
    return _sqlite(url, read_only) if url.drivername.startswith("sqlite") else _postgres(url, read_only)


def create_file(url: URL, setting: str) -> None:
    """Makes the SQLite file, readable by its owner alone (the files beside it take its mode over), if it is missing."""
    if not url.drivername.startswith("sqlite"):
        return
    assert url.database is not None
    try:
        os.close(os.open(url.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigurationError(
            f"{setting}: {url.database} cannot be opened: {error.strerror}",
            hint="the folder must exist and be writable by the user that runs the server",
        ) from error


def _sqlite(url: URL, read_only: bool) -> Engine:
    engine = create_engine(
        url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": BUSY_MS / 1e3},
    )

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the module's own BEGIN would be a deferred one; `begin` below sends ours
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        if _to_wal(connection) != "wal":
            raise ConfigurationError(
                f"the file system of {url.database} cannot hold a SQLite database in WAL mode",
                hint="use a local disk, or PostgreSQL",
            )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        if read_only:
            connection.execute("PRAGMA query_only=ON")

    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", start)
    return engine


def _to_wal(connection: sqlite3.Connection) -> str:
    """Puts the database in WAL mode and gives the mode that it is in. Where several open a new file at once, SQLite refuses
    all but one of them on the spot, whatever the busy timeout: they try again for as long as that."""
    import sqlite3

    deadline = time.monotonic() + BUSY_MS / 1e3
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            return str(mode)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_SECONDS)


def _postgres(url: URL, read_only: bool) -> Engine:
    silence = {
        "keepalives_idle": "15",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "20000",
    }
    defaults = {"connect_timeout": str(CONNECT_SECONDS), "application_name": "insula", **silence}
    engine = create_engine(
        url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={name: value for name, value in defaults.items() if name not in url.query},
        execution_options={"postgresql_readonly": True} if read_only else {},
    )

    def prepare(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = {STATEMENT_MS}")
            cursor.execute(f"SET lock_timeout = {BUSY_MS}")
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        connection.commit()

    event.listen(engine, "connect", prepare)
    return engine
