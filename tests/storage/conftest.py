"""Databases of the two kinds: what is tested here holds on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from insula.storage.database import Database
from insula.storage.tables import metadata
from tests.postgres import PostgresServer, postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> str:
    """The URL of one database for all tests of this folder: making one for each would take longer than the tests."""
    url = postgres_server.url(postgres_server.make_database())

    async def migrate() -> None:
        await (await Database.open(url)).close()

    asyncio.run(migrate())
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without rows."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/insula.db"
        return
    found: str = request.getfixturevalue("migrated_postgres")
    yield found
    with psycopg.connect(found) as connection:
        for table in metadata.sorted_tables[::-1]:
            connection.execute(f"DELETE FROM {table.name}".encode())


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables, to be changed at will."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/insula.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """An open database."""
    database = await Database.open(url)
    yield database
    await database.close()
