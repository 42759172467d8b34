"""The writer: groups, failures in them, limits, deadlines, cancellation, lost connections."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Connection

from insula.errors import Code, DeadlineError, InsulaError, LimitError, UnavailableError
from insula.storage.database import Database
from insula.storage.deployments import DeploymentRepository
from insula.storage.guest_state import StateRepository
from insula.storage.turns import MAX_BYTES
from insula.storage.writer import _SETTLED, MAX_GROUP, MAX_GROUP_BYTES

ADD = text("INSERT INTO insula_state_usage (service_id, key_count, byte_count, floor) VALUES (:name, 0, 0, 0)")
NAMES = text("SELECT service_id FROM insula_state_usage ORDER BY service_id")


def add(name: str) -> Callable[[Connection], str]:
    def unit(connection: Connection) -> str:
        connection.execute(ADD, {"name": name})
        return name

    return unit


async def names(db: Database) -> list[str]:
    return await db.read(lambda c: list(c.scalars(NAMES)))


@asynccontextmanager
async def busy(db: Database) -> AsyncIterator[None]:
    """The writer is at work on a unit from the beginning of the block to its end."""
    begun, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def unit(_connection: Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        end.wait(30)

    task = asyncio.create_task(db.write(unit))
    await begun.wait()
    try:
        yield
    finally:
        end.set()
        await task


async def queued(*units: Any) -> list[asyncio.Task[Any]]:
    """Tasks that have reached the queue."""
    tasks = [asyncio.create_task(unit) for unit in units]
    await asyncio.sleep(0)
    return tasks


async def test_what_waits_together_is_committed_together(db: Database) -> None:
    def root(connection: Connection) -> object:
        return connection.get_transaction()

    async with busy(db):
        tasks = await queued(*(db.write(root) for _ in range(50)))
    assert len(set(await asyncio.gather(*tasks))) == 1


async def test_the_callers_of_one_group_are_told_over_several_turns_of_the_loop(db: Database) -> None:
    """Each of them does something next: all at once they would hold the loop."""
    loop = asyncio.get_running_loop()
    turn, told = 0, Counter[int]()

    def count() -> None:
        nonlocal turn
        turn += 1
        if not all(task.done() for task in tasks):
            loop.call_soon(count)

    async with busy(db):
        tasks = await queued(*(db.write(add(f"s{n:03}")) for n in range(100)))
        for task in tasks:
            task.add_done_callback(lambda _: told.update((turn,)))
        loop.call_soon(count)
    await asyncio.gather(*tasks)
    await asyncio.sleep(0)
    assert told.total() == 100
    assert max(told.values()) <= 2 * _SETTLED


async def test_a_unit_that_fails_hurts_no_other_and_leaves_nothing(db: Database) -> None:
    def half(connection: Connection) -> None:
        add("half")(connection)
        raise KeyError("mine")

    def stop(connection: Connection) -> None:
        add("stopped")(connection)
        raise StopIteration

    async with busy(db):
        tasks = await queued(db.write(add("a")), db.write(half), db.write(add("a")), db.write(stop), db.write(add("b")))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert (outcomes[0], outcomes[4]) == ("a", "b")
    assert isinstance(outcomes[1], KeyError)
    assert isinstance(outcomes[2], InsulaError)  # the same key twice
    assert isinstance(outcomes[3], RuntimeError)
    assert await names(db) == ["a", "b"]


async def test_a_unit_that_fails_alone_leaves_nothing(db: Database) -> None:
    def half(connection: Connection) -> None:
        add("half")(connection)
        raise KeyError("mine")

    with pytest.raises(KeyError):
        await db.write(half)
    await db.write(add("after"))
    assert await names(db) == ["after"]


async def test_a_group_that_does_not_commit_is_carried_out_one_by_one(fresh_url: str) -> None:
    db = await Database.open(fresh_url)

    def tables(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE parent (id integer PRIMARY KEY)")
        connection.exec_driver_sql(
            "CREATE TABLE child (id integer PRIMARY KEY,"
            " parent integer NOT NULL REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
        )

    def orphan(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO child VALUES (1, 99)")  # found out at the commit

    await db.write(tables)
    async with busy(db):
        tasks = await queued(db.write(add("a")), db.write(orphan), db.write(add("b")))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert (outcomes[0], outcomes[2]) == ("a", "b")
    assert isinstance(outcomes[1], InsulaError)
    assert await names(db) == ["a", "b"]
    with pytest.raises(InsulaError):
        await db.write(orphan)
    await db.write(add("c"))
    await db.close()


async def test_a_unit_that_would_end_the_thread_ends_no_more_than_its_group(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(_: Connection) -> None:
        raise SystemExit

    async with busy(db):
        tasks = await queued(db.write(add("a")), db.write(leave), db.write(add("b")))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {getattr(outcome, "reason", None) for outcome in outcomes} == {"outcome_unknown"}
    assert "in a way that nobody foresaw" in caplog.text
    await db.write(add("after"))
    assert await names(db) == ["after"]


async def test_the_error_of_a_write_or_read_whose_caller_left_is_logged(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    begun, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def lost(_: Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        end.wait(30)
        raise KeyError("lost")

    for operation, what in ((db.write, "a write failed"), (db.read, "a read failed")):
        task = asyncio.create_task(operation(lost))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        end.set()
        await db.write(add(what))
        assert await names(db)
        assert f"{what} after its caller had left" in caplog.text
        begun.clear()
        end.clear()


async def test_a_unit_that_ends_the_transaction_hurts_no_other(db: Database) -> None:
    async with busy(db):
        tasks = await queued(db.write(add("a")), db.write(lambda c: c.rollback()), db.write(add("b")))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert (outcomes[0], outcomes[2]) == ("a", "b")
    assert await names(db) == ["a", "b"]
    await db.write(add("c"))


async def test_who_took_the_places_is_refused_and_nobody_else(url: str) -> None:
    """1,024 writes of one service wait: another's write, a deployment and a sweep are carried out."""
    db = await Database.open(url, max_waiting=1024)
    state, deployments = StateRepository(db), DeploymentRepository(db, "d" * 32)
    await state.set("shop.Stale.v1", "old", "1", ttl=0.001)
    async with busy(db):
        greedy = await queued(*(state.increment("shop.Greedy.v1", "n") for _ in range(1024)))
        refused = [task for task in greedy if task.done()]
        others = await queued(
            *(state.increment(f"shop.Other{number % 8}.v1", "n") for number in range(80)),
            *(deployments.put(f"shop.A{number}.v1", "d", "1", "s", "t") for number in range(100)),
            state.sweep(),
        )
    done = await asyncio.gather(*others, return_exceptions=True)
    assert [each for each in done if isinstance(each, Exception)] == []
    assert 1024 - len(refused) == 448, "one alone gets half of what is not the server's own"
    error = refused[0].exception()
    assert isinstance(error, LimitError)
    assert error.reason == "database_share"
    assert "shop.Greedy.v1 has 448 places of the 1024 that writes may take" in error.message
    outcomes = await asyncio.gather(*greedy, return_exceptions=True)
    assert len([each for each in outcomes if isinstance(each, int)]) == 448
    assert await state.increment("shop.Greedy.v1", "n") == 449, "what it gave back it may take again"
    await db.close()


async def test_the_bytes_that_wait_are_shared_as_well(url: str) -> None:
    db = await Database.open(url)
    state = StateRepository(db)
    large = '"' + "x" * ((1 << 20) - 2) + '"'
    async with busy(db):
        greedy = await queued(*(state.set("shop.Greedy.v1", f"k{number}", large) for number in range(80)))
        other = await queued(state.set("shop.Other.v1", "k", large))
    outcomes = await asyncio.gather(*greedy, return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, LimitError)]
    assert len(refused) == 80 - MAX_BYTES // 2 // len(large)
    assert f"bytes of the {MAX_BYTES} that writes may take" in str(refused[0])
    assert (await other[0]).version == 1
    await asyncio.gather(*(state.set("shop.Greedy.v1", f"k{number}", "1") for number in range(80)))
    await db.close()


async def test_large_values_make_small_groups(url: str) -> None:
    """The write of another, and the server's own, wait for the commit under way: it is no larger than two of these."""
    db = await Database.open(url)
    transactions: dict[str, object] = {}

    def note(name: str) -> Callable[[Connection], None]:
        return lambda connection: transactions.update({name: connection.get_transaction()})

    async with busy(db):
        tasks = await queued(*(db.write(note(f"l{n}"), tenant="a", size=MAX_GROUP_BYTES // 2) for n in range(6)))
    await asyncio.gather(*tasks)
    assert len({id(one) for one in transactions.values()}) >= 3
    await db.close()


async def test_the_server_goes_first_and_services_take_turns(url: str) -> None:
    db = await Database.open(url)
    order: list[str] = []

    def note(name: str) -> Callable[[Connection], None]:
        return lambda _: order.append(name)

    async with busy(db):
        tasks = await queued(
            *(db.write(note("a"), tenant="a") for _ in range(MAX_GROUP)),
            db.write(note("b"), tenant="b"),
            db.write(note("server")),
        )
    await asyncio.gather(*tasks)
    first = order[:MAX_GROUP]
    assert first.count("server") == first.count("b") == 1, "both are in the group that is committed next"
    assert len(order) == MAX_GROUP + 2
    await db.close()


async def test_the_server_itself_is_bounded_too(url: str) -> None:
    db = await Database.open(url, max_waiting=16)
    async with busy(db):  # a place of the reserve
        tasks = await queued(*(db.write(add(f"{number:02}")) for number in range(16)))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, LimitError)]
    assert len(refused) == 8, "one left of the reserve, and its share of the others"
    assert len(await names(db)) == 8
    await asyncio.gather(*(db.write(add(f"later{number}")) for number in range(8)))
    await db.close()


async def test_a_lost_file_is_told_to_all_that_wait(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "gone.db")
    async with busy(db):
        tasks = await queued(*(db.write(add(f"{number:03}"), tenant="shop.Greedy.v1") for number in range(300)))
        await asyncio.to_thread((tmp_path / "gone.db").rename, tmp_path / "elsewhere.db")
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {getattr(each, "reason", None) for each in outcomes} == {"database_gone"}
    await db.close()


async def test_a_write_whose_turn_does_not_come_in_time_is_not_made(db: Database) -> None:
    async with busy(db):
        with pytest.raises(DeadlineError, match="not made"):
            await db.write(add("late"), timeout=0.001)
    await db.write(add("after"))
    assert await names(db) == ["after"]


async def test_a_write_that_takes_too_long_is_said_to_be_unknown_and_is_whole(db: Database) -> None:
    end = threading.Event()

    def slow(connection: Connection) -> None:
        add("one")(connection)
        end.wait(30)
        add("two")(connection)

    with pytest.raises(DeadlineError) as caught:
        await db.write(slow, timeout=0.05)
    end.set()
    assert caught.value.reason == "outcome_unknown"
    await db.write(add("zero"))
    assert await names(db) == ["one", "two", "zero"]


async def test_a_deadline_that_has_passed_asks_nothing(db: Database) -> None:
    for operation in (db.write, db.read):
        with pytest.raises(DeadlineError):
            await operation(add("late"), timeout=0)
    assert await names(db) == []


async def test_a_cancelled_write_that_waited_is_not_begun(db: Database) -> None:
    async with busy(db):
        tasks = await queued(db.write(add("a")), db.write(add("b")))
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
    await tasks[1]
    assert await names(db) == ["b"]


async def test_a_cancelled_write_that_has_begun_is_whole(db: Database) -> None:
    begun, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: Connection) -> None:
        add("one")(connection)
        loop.call_soon_threadsafe(begun.set)
        end.wait(30)
        add("two")(connection)

    task = asyncio.create_task(db.write(slow))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    end.set()
    await db.write(add("zero"))
    assert await names(db) == ["one", "two", "zero"]


async def test_closing_carries_out_what_waits(url: str) -> None:
    db = await Database.open(url)
    async with busy(db):
        tasks = await queued(*(db.write(add(f"{n:02}")) for n in range(20)))
        closing = asyncio.create_task(db.close())
        await asyncio.sleep(0)
        for operation in (db.write, db.read):
            with pytest.raises(UnavailableError):
                await operation(add("late"))
    await closing
    await db.close()

    assert await asyncio.gather(*tasks) == [f"{n:02}" for n in range(20)]
    again = await Database.open(url)
    assert await names(again) == [f"{n:02}" for n in range(20)]
    await again.close()


async def test_reads_that_grow_into_writes_never_find_the_database_locked(db: Database, url: str) -> None:
    other = await Database.open(url)
    read = text("SELECT key_count FROM insula_state_usage WHERE service_id = 'n' FOR UPDATE")
    if url.startswith("sqlite"):
        read = text("SELECT key_count FROM insula_state_usage WHERE service_id = 'n'")
    write = text("UPDATE insula_state_usage SET key_count = :n WHERE service_id = 'n'")

    def count(connection: Connection) -> None:
        number = connection.execute(read).scalar_one()
        connection.execute(write, {"n": number + 1})

    async def guest(database: Database) -> None:
        for _ in range(20):
            await database.write(count)

    await db.write(add("n"))
    await asyncio.gather(*(guest(database) for database in (db, other) * 5))
    assert await db.write(lambda c: c.execute(read).scalar()) == 200
    await other.close()


async def test_a_full_disk_is_said_to_be_one(tmp_path: Any) -> None:
    db = await Database.open(f"sqlite:///{tmp_path}/full.db")

    def too_much(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
        add("x" * 1_000_000)(connection)

    async with busy(db):
        tasks = await queued(db.write(add("a")), db.write(too_much), db.write(add("b")))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert (outcomes[0], outcomes[2]) == ("a", "b")
    assert isinstance(outcomes[1], LimitError)
    assert outcomes[1].http_status == 507
    assert await names(db) == ["a", "b"]
    await db.close()


class TestPostgres:
    """What only a server can do to a connection."""

    @pytest.fixture
    async def db(self, postgres_url: str) -> AsyncIterator[Database]:
        database = await Database.open(postgres_url)
        yield database
        await database.close()

    async def test_connections_that_were_cut_are_made_anew(self, db: Database, postgres_url: str) -> None:
        await db.write(add("a"))
        assert await names(db) == ["a"]
        await asyncio.to_thread(_cut, postgres_url)

        assert await asyncio.gather(*(db.write(add(name)) for name in "bcd")) == ["b", "c", "d"]
        assert await names(db) == ["a", "b", "c", "d"]

    async def test_a_connection_cut_between_units_is_made_anew(self, db: Database, postgres_url: str) -> None:
        runs = 0

        def cut(_connection: Connection) -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                _cut(postgres_url)

        async with busy(db):
            tasks = await queued(db.write(add("a")), db.write(cut), db.write(add("b")))
        await asyncio.gather(*tasks)
        assert (runs, await names(db)) == (2, ["a", "b"])

    async def test_a_connection_cut_during_the_commit_leaves_the_outcome_unknown(
        self, db: Database, postgres_url: str
    ) -> None:
        units_begun = 0

        def cut(_connection: Connection) -> None:
            if units_begun:
                _cut(postgres_url)

        def lost(connection: Connection) -> None:
            nonlocal units_begun
            units_begun += 1
            add(f"lost{units_begun}")(connection)

        engine = db._writer._link.engine
        event.listen(engine, "commit", cut)  # called just before the commit is sent
        for count in (1, 3):
            units_begun = 0
            async with busy(db):
                tasks = await queued(*(db.write(lost) for _ in range(count)))
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [getattr(outcome, "reason", None) for outcome in outcomes] == ["outcome_unknown"] * count
            assert units_begun == count, "none is tried again"
        event.remove(engine, "commit", cut)
        await db.write(add("after"))
        assert await names(db) == ["after"]

    async def test_failures_of_serialisation_are_tried_again(self, db: Database) -> None:
        runs = 0

        def unit(connection: Connection) -> int:
            nonlocal runs
            runs += 1
            add("a")(connection)
            if runs < 4:
                connection.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$")
            return runs

        async with busy(db):
            tasks = await queued(db.write(unit), db.write(add("b")))
        assert (await asyncio.gather(*tasks))[0] == 4
        assert await names(db) == ["a", "b"]

    async def test_failures_without_an_end_are_given_up(self, db: Database) -> None:
        def unit(connection: Connection) -> None:
            connection.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40P01'; END $$")

        with pytest.raises(UnavailableError):
            await db.write(unit)
        await db.write(add("a"))

    async def test_values_reach_neither_the_log_nor_the_caller(
        self, db: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        await db.write(add("hush-hush"))
        with pytest.raises(InsulaError) as caught:
            await db.write(add("hush-hush"))
        assert "hush" not in caplog.text + str(caught.value)
        assert "pk_insula_state_usage" in caplog.text
        assert caught.value.code is Code.INTERNAL


def _cut(url: str) -> None:
    """Ends every other session of this database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
