"""Opening and closing: what a database is told, what cannot be opened, what stays behind."""

from __future__ import annotations

import logging
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import Connection

from insula.errors import ConfigurationError, UnavailableError
from insula.storage.database import Database
from tests.storage.test_writer import add, names


async def test_what_was_acknowledged_is_there_after_opening_again(url: str) -> None:
    for number in range(3):
        db = await Database.open(url)
        await db.write(add(f"n{number}"))
        await db.close()
    db = await Database.open(url)
    assert await names(db) == ["n0", "n1", "n2"]
    await db.close()


async def test_a_path_may_have_any_characters(tmp_path: Path) -> None:
    path = tmp_path / "100%41?x=1#ü .db"
    db = await Database.open(path)
    await db.write(add("a"))
    assert await names(db) == ["a"]
    assert str(path) in db.description
    await db.close()
    assert os.listdir(tmp_path) == [path.name]


async def test_opening_and_closing_leaves_no_descriptor_behind(url: str) -> None:
    async def round_trip() -> None:
        db = await Database.open(url)
        await db.write(lambda c: c.exec_driver_sql("SELECT 1").scalar())
        await names(db)
        await db.close()

    await round_trip()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        await round_trip()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_sqlite_is_durable_and_private(tmp_path: Path) -> None:
    db = await Database.open(f"sqlite:///{tmp_path}/insula.db")
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    found = await db.write(lambda c: [c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas])
    assert found == ["wal", 2, 1, 5000]
    names = sorted(os.listdir(tmp_path))
    assert names == ["insula.db", "insula.db-shm", "insula.db-wal"]
    assert {stat.S_IMODE(os.lstat(tmp_path / name).st_mode) for name in names} == {0o600}
    await db.close()


async def test_postgres_commits_are_synchronous_and_waits_bounded(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("ALTER ROLE postgres SET synchronous_commit = off")

    def settings(connection: Connection) -> list[str]:
        names = ("synchronous_commit", "statement_timeout", "lock_timeout", "application_name")
        return [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]

    try:
        for url in (postgres_url, postgres_url.replace("postgresql://", "postgres://")):
            db = await Database.open(url)
            for ask in (db.write, db.read):
                assert await ask(settings) == ["on", "30s", "5s", "insula"]
            await db.close()
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("ALTER ROLE postgres RESET synchronous_commit")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "not a database URL"),
        ("hush", "not a database URL"),
        ("mysql://u:hush@h/d", "neither sqlite nor postgresql"),
        ("postgresql+asyncpg://u:hush@h/d", "without a driver"),
        ("postgresql://u:hush@h:port/d", "not a database URL"),
        ("sqlite://", "by its path"),
        ("sqlite:///:memory:", "by its path"),
        ("sqlite:///file:hush?mode=memory", "by its path"),
        ("sqlite:////nowhere/at/all/insula.db", "/nowhere/at/all/insula.db cannot be opened"),
    ],
)
async def test_what_is_no_usable_url_is_refused_by_name(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await Database.open(url, setting="storage.url")
    assert words in str(caught.value)
    assert "storage.url" in caught.value.message
    assert "hush" not in str(caught.value)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "insula.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(ConfigurationError, match="not a database"):
        await Database.open(f"sqlite:///{tmp_path}/insula.db")


async def test_a_server_out_of_reach_is_unavailable_and_its_password_stays_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        port = closed.getsockname()[1]
        with pytest.raises(UnavailableError) as caught:
            await Database.open(f"postgresql://somebody:hush@127.0.0.1:{port}/d")
    assert "hush" not in str(caught.value) + caplog.text
    assert f"'d' at 127.0.0.1:{port}" in caught.value.message


async def test_a_role_that_may_not_make_tables_is_told_so(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE humble LOGIN")
    try:
        with pytest.raises(ConfigurationError, match="permission denied") as caught:
            await Database.open(postgres_url.replace("postgres@", "humble@"))
        assert caught.value.hint is not None
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DROP ROLE humble")


def test_a_start_on_a_database_of_this_version_loads_neither_alembic_nor_another_driver(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from insula.storage.database import Database\n"
        "async def main():\n"
        "    await (await Database.open(sys.argv[1])).close()\n"
        "asyncio.run(main())\n"
        "print([name for name in ('alembic', 'mako', 'psycopg', 'greenlet') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{tmp_path}/insula.db"]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert "alembic" in first
    assert second == "[]\n"


def test_without_its_driver_postgres_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'psycopg' else find(name, package)\n"
    )
    program = (
        "import asyncio\nfrom insula.storage.database import Database\nasyncio.run(Database.open('postgres://h/d'))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "pip install 'insula[postgres]'" in ended.stderr
