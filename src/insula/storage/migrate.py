"""Brings the tables to the revision that this version of the server works with.

At a normal start that is one SELECT: the head is a constant here (a test holds it against the migrations), and Alembic
is imported only where the database says otherwise. A migration is one transaction, so that a kill leaves the database as
it was; servers that start at once on one database wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from insula.errors import ConfigurationError, UnavailableError
from insula.storage.engine import describe, scrub
from insula.storage.faults import Fault, diagnose, is_damaged, log, refusal
from insula.storage.link import Link

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0001"
VERSION_TABLE = "insula_revision"
SCRIPTS = Path(__file__).parent / "migrations"

_REVISION = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608  (a constant)
#: A number of our own for PostgreSQL's advisory lock: the letters "insula".
_LOCK = text(f"SELECT pg_advisory_xact_lock({int.from_bytes(b'insula')})")
#: Alembic keeps what it is at work on in globals: one migration at a time in a process.
_alembic = threading.Lock()
#: Others may be migrating: what they do must not count as a lock held too long.
_PATIENCE = (text("SET LOCAL lock_timeout = '60s'"), text("SET LOCAL statement_timeout = '120s'"))


def ensure(link: Link, setting: str) -> None:
    """Connects, and upgrades where the revision differs. ConfigurationError where a newer version of the server made the
    tables, or where this one may not make them; UnavailableError where the database is out of reach."""
    url = link.engine.url
    try:
        connection = _connect(link, setting)
        with connection.begin():
            if revision(connection) == HEAD:
                return
        with _alembic, _cascades_off(connection), connection.begin():
            _upgrade(connection, setting)
    except UnicodeDecodeError:  # SQLite's own message quotes what stands in the file, and the driver cannot read it
        raise ConfigurationError(
            f"{setting}: {describe(url)} is damaged: it has texts that are none", hint="restore it from a backup"
        ) from None
    except DBAPIError as error:
        if diagnose(error) in (Fault.LOST, Fault.BUSY, Fault.FULL):
            raise refusal(error) from None
        raise ConfigurationError(
            f"{setting}: the database cannot be used: {scrub(str(error.orig), url)}",
            hint="restore it from a backup"
            if is_damaged(error)
            else "the user of the URL must be able to create tables in it",
        ) from None


def _connect(link: Link, setting: str) -> Connection:
    url = link.engine.url
    try:
        return link.connect()
    except DBAPIError as error:
        said = f"{setting}: {describe(url)} cannot be opened: {scrub(str(error.orig), url)}"
        if url.drivername.startswith("sqlite"):
            if diagnose(error) is Fault.BUSY:
                raise UnavailableError(said, hint="another process holds it: stop that one, or wait for it") from None
            hint = (
                "restore it from a backup" if is_damaged(error) else "is there room on its disk? Else name another file"
            )
            raise ConfigurationError(said, hint=hint) from None
        raise UnavailableError(said, hint="is the server there, and do user and password fit?") from None


def revision(connection: Connection) -> str | None:
    """The revision that the database is at; None where it has none of our tables."""
    if not connection.dialect.has_table(connection, VERSION_TABLE):
        return None
    return connection.execute(_REVISION).scalar()


def configuration(connection: Connection) -> Config:
    """Alembic's configuration over a connection whose transaction is begun (and committed) by the caller."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: Connection, setting: str) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        for statement in (*_PATIENCE, _LOCK):
            connection.execute(statement)
    present = revision(connection)
    if present == HEAD:  # another server was quicker
        return
    config = configuration(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if present is not None and present not in known:
        raise ConfigurationError(
            f"{setting}: the database was made by a newer version of the server (its revision is {present[:32]})",
            hint="start that version, or restore a backup made before the upgrade",
        )
    if present is None:
        log.info("the database is new: making its tables (revision %s)", HEAD)
    else:
        log.info("migrating the database from revision %s to %s", present, HEAD)
    command.upgrade(config, HEAD)


@contextmanager
def _cascades_off(connection: Connection) -> Iterator[None]:
    """SQLite alters a table by making it anew and dropping the old one, which would delete what refers to it. The check
    of foreign keys is therefore off during a migration; it can only be switched outside a transaction."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")
