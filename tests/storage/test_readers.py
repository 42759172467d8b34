"""Reading beside the writer."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy.engine import Connection

from insula.errors import InsulaError, LimitError
from insula.storage.database import Database
from tests.storage.test_writer import add, busy, names


async def test_reads_go_on_while_the_writer_is_at_work(db: Database) -> None:
    await db.write(add("a"))
    async with busy(db):
        assert await names(db) == ["a"]


async def test_a_read_sees_what_was_acknowledged_before_it(db: Database) -> None:
    for number in range(30):
        await db.write(add(f"{number:02}"))
        assert len(await names(db)) == number + 1


async def test_a_read_cannot_write(db: Database) -> None:
    with pytest.raises(InsulaError):
        await db.read(add("a"))
    assert await names(db) == []


async def test_a_read_that_fails_leaves_its_connection_usable(url: str) -> None:
    db = await Database.open(url, reader_threads=1)

    def fails(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT 1")
        raise KeyError("mine")

    with pytest.raises(KeyError):
        await db.read(fails)
    with pytest.raises(InsulaError):
        await db.read(lambda c: c.exec_driver_sql("SELECT nothing FROM nowhere"))
    assert await names(db) == []
    await db.close()


async def test_too_many_reads_are_refused_and_one_who_left_still_counts(url: str) -> None:
    db = await Database.open(url, reader_threads=1, max_waiting=2)
    begun, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(_connection: Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        end.wait(30)

    left = asyncio.create_task(db.read(slow))
    await begun.wait()
    left.cancel()
    waits = asyncio.create_task(names(db))
    await asyncio.sleep(0)
    with pytest.raises(LimitError):
        await names(db)
    end.set()
    assert await waits == []
    assert await names(db) == []
    await db.close()
