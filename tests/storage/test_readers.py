"""Reading beside the writer."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy.engine import Connection

from insula.errors import InsulaError, LimitError, UnavailableError
from insula.storage import readers as module
from insula.storage.database import Database
from tests.scarce import refuse_threads
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


async def test_who_took_the_places_is_refused_and_one_who_left_still_counts(url: str) -> None:
    db = await Database.open(url, reader_threads=1, max_waiting=5)
    begun, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(_connection: Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        end.wait(30)

    left = asyncio.create_task(db.read(slow, tenant="a"))
    await begun.wait()
    left.cancel()
    waits = asyncio.create_task(db.read(lambda _: "a", tenant="a"))
    await asyncio.sleep(0)
    with pytest.raises(LimitError, match="a has 2 places of the 5 that reads may take"):
        await db.read(lambda _: "a", tenant="a")
    other = asyncio.create_task(db.read(lambda _: "b", tenant="b"))
    await asyncio.sleep(0)
    assert await names(db) == [], "the server reads on while a service holds every thread of theirs"
    assert not other.done()
    end.set()
    assert (await waits, await other) == ("a", "b")
    assert await db.read(lambda _: "again", tenant="a") == "again"
    await db.close()


async def test_services_take_turns(url: str) -> None:
    db = await Database.open(url, reader_threads=1)
    begun, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    order: list[str] = []

    def slow(_connection: Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        end.wait(30)

    first = asyncio.create_task(db.read(slow, tenant="a"))
    await begun.wait()
    tasks = [asyncio.create_task(db.read(lambda _: order.append("a"), tenant="a")) for _ in range(100)]
    tasks.append(asyncio.create_task(db.read(lambda _: order.append("b"), tenant="b")))
    gone = asyncio.create_task(db.read(lambda _: order.append("gone"), tenant="c"))
    await asyncio.sleep(0)
    gone.cancel()
    end.set()
    await asyncio.gather(first, *tasks)
    assert order.index("b") <= 3
    assert len(order) == 101
    assert "gone" not in order
    await db.close()


async def test_closing_carries_out_what_waits(url: str) -> None:
    db = await Database.open(url, reader_threads=1)
    tasks = [asyncio.create_task(db.read(lambda _: 1, tenant="a")) for _ in range(50)]
    await asyncio.sleep(0)
    await db.close()
    assert await asyncio.gather(*tasks) == [1] * 50


async def test_threads_that_the_system_refuses_take_no_places_and_hold_up_no_end(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = threading.Thread.start

    def none_for_reads(self: threading.Thread) -> None:
        if self.name.startswith("insula-reader"):
            raise RuntimeError("can't start new thread")
        given(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_for_reads)
        db = await Database.open(url, reader_threads=2, max_waiting=8)
        for tenant in ("", *"aaaaaaaa", *"bbbbbbbb"):
            with pytest.raises(UnavailableError, match="starts no more threads"):
                await db.read(lambda _: 1, tenant=tenant)
    async with asyncio.timeout(10):
        assert [await db.read(lambda _: 1, tenant=tenant) for tenant in ("", *"abc")] == [1] * 4
        await db.close()


async def test_reads_need_no_thread_that_was_not_there_from_the_start(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = await Database.open(url)
    with refuse_threads(monkeypatch):
        assert await db.read(lambda _: 1, tenant="a") == 1
        assert await names(db) == []
    await db.close()


async def test_closing_does_not_wait_for_ever(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CLOSE_WITHIN", 0.05)
    db = await Database.open(url, reader_threads=1)
    begun, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(_connection: Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        end.wait(30)

    held = asyncio.create_task(db.read(slow, tenant="a"))
    await begun.wait()
    async with asyncio.timeout(10):
        await db.close()
    assert "reads of the database did not end" in caplog.text
    end.set()
    await held
