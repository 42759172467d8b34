"""Migrations: head, both directions, agreement with the tables, and who may start on what."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

from insula.errors import ConfigurationError
from insula.storage import migrate
from insula.storage.database import Database
from insula.storage.engine import make_engine, parse_url
from insula.storage.tables import metadata


def connect(url: str) -> Connection:
    return make_engine(parse_url(url, "storage.url"), read_only=False).connect()


def start(url: str) -> None:
    """What a server does with its database at its start, and at its end."""

    async def main() -> None:
        await (await Database.open(url)).close()

    asyncio.run(main())


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection, opts={"version_table": migrate.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, metadata))


def test_the_head_in_the_code_is_the_head_of_the_migrations(url: str) -> None:
    with connect(url) as connection:
        script = ScriptDirectory.from_config(migrate.configuration(connection))
    assert script.get_current_head() == migrate.HEAD


def test_an_empty_database_becomes_what_the_tables_say(fresh_url: str) -> None:
    start(fresh_url)
    with connect(fresh_url) as connection:
        assert differences(connection) == []
        assert migrate.revision(connection) == migrate.HEAD


def test_down_and_up_again(fresh_url: str) -> None:
    with connect(fresh_url) as connection:
        for _ in range(2):
            with connection.begin():
                command.upgrade(migrate.configuration(connection), "head")
            with connection.begin():
                command.downgrade(migrate.configuration(connection), "base")
            with connection.begin():
                assert inspect(connection).get_table_names() == [migrate.VERSION_TABLE]
        with connection.begin():
            command.upgrade(migrate.configuration(connection), "head")
        assert differences(connection) == []


async def test_text_is_ordered_by_bytes_on_postgres(postgres_url: str) -> None:
    db = await Database.open(postgres_url)
    collations = text(
        "SELECT attrelid::regclass::text || '.' || attname FROM pg_attribute JOIN pg_collation c ON c.oid = attcollation"
        " WHERE attrelid::regclass::text LIKE 'insula_%' AND attnum > 0 AND collname = 'C'"
        " AND attrelid IN (SELECT oid FROM pg_class WHERE relkind = 'r') ORDER BY 1"
    )
    assert await db.read(lambda c: list(c.scalars(collations))) == [
        "insula_deployment_history.depot_id",
        "insula_deployment_history.service_id",
        "insula_deployments.depot_id",
        "insula_deployments.service_id",
        "insula_state.key",
        "insula_state.service_id",
        "insula_state_usage.service_id",
    ]
    await db.close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(fresh_url: str) -> None:
    start(fresh_url)
    with connect(fresh_url) as connection, connection.begin():
        connection.exec_driver_sql(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"newer version .*9999"):
            start(fresh_url)
    with connect(fresh_url) as connection:
        assert migrate.revision(connection) == "9999"


def test_a_migration_that_fails_leaves_nothing(fresh_url: str) -> None:
    with connect(fresh_url) as connection, connection.begin():
        connection.exec_driver_sql("CREATE TABLE insula_state (other integer)")  # in the way of the third table
    with pytest.raises(ConfigurationError, match="already exists"):
        start(fresh_url)
    with connect(fresh_url) as connection:
        assert inspect(connection).get_table_names() == ["insula_state"]


async def test_foreign_keys_hold_again_after_a_migration(fresh_url: str) -> None:
    db = await Database.open(fresh_url)
    with pytest.raises(Exception, match="the database failed"):
        await db.write(
            lambda c: c.exec_driver_sql("INSERT INTO insula_deployment_history VALUES ('d', 's', 1, '', '', '', '')")
        )
    await db.close()


async def test_on_postgres_a_second_server_waits_for_the_migration_of_the_first(postgres_url: str) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with connect(postgres_url) as first, connect(postgres_url) as onlooker:
        migration = first.begin()
        first.execute(migrate._LOCK)
        second = asyncio.create_task(Database.open(postgres_url))
        while not await asyncio.to_thread(lambda: onlooker.execute(waiting).scalar_one()):
            assert not second.done()
        await asyncio.to_thread(command.upgrade, migrate.configuration(first), "head")
        migration.commit()
        await (await second).close()


async def test_databases_opened_at_once_in_one_process(fresh_url: str) -> None:
    opened = await asyncio.gather(*(Database.open(fresh_url) for _ in range(12)))
    await asyncio.gather(*(db.close() for db in opened))


def test_servers_that_start_at_once_on_one_empty_database(fresh_url: str) -> None:
    program = (
        "import asyncio, sys, alembic.command\n"
        "from insula.storage.database import Database\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "async def main():\n"
        "    await (await Database.open(sys.argv[1])).close()\n"
        "asyncio.run(main())\n"
    )
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", program, fresh_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
    for server in servers:
        assert server.stdin is not None
        server.stdin.close()
    for server in servers:
        assert server.stderr is not None
        error = server.stderr.read()
        assert (server.wait(30), error) == (0, "")
        for stream in (server.stdout, server.stderr):
            assert stream is not None
            stream.close()
    with connect(fresh_url) as connection:
        assert differences(connection) == []


def test_a_file_whose_texts_are_damaged_is_called_so(tmp_path: Path) -> None:
    """What SQLite says of it cannot be read itself: it quotes the file."""
    file = tmp_path / "insula.db"
    start(f"sqlite:///{file}")
    file.write_bytes(file.read_bytes().replace(b"CREATE TABLE ", b"CREATE TABL\xd3 "))
    with pytest.raises(ConfigurationError, match="damaged") as raised:
        start(f"sqlite:///{file}")
    assert raised.value.hint == "restore it from a backup"
