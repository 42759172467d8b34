"""Guests' state over both databases: versions, conditions, expiry, counters, lists, quotas."""

from __future__ import annotations

import asyncio
import string

import pytest

from insula.errors import CallerError, Code, LimitError
from insula.storage.database import Database
from insula.storage.guest_state import MAX_INT, SWEEP_BATCH, StateRepository
from tests.clock import Clock

S = "shop.Counter.v1"


@pytest.fixture
def clock() -> Clock:
    """Unix seconds."""
    return Clock(1_800_000_000.0)


@pytest.fixture
def state(db: Database, clock: Clock) -> StateRepository:
    return StateRepository(db, clock=clock)


def code(caught: pytest.ExceptionInfo[CallerError]) -> Code:
    return caught.value.code


async def test_a_version_grows_with_each_write(state: StateRepository, clock: Clock) -> None:
    assert await state.get(S, "k") is None
    assert await state.set(S, "k", '"a"') == ('"a"', 1, 1_800_000_000_000)
    clock.at += 1.5
    assert await state.set(S, "k", '"b"') == ('"b"', 2, 1_800_000_001_500)
    assert await state.increment(S, "other") == 1
    assert await state.get(S, "k") == ('"b"', 2, 1_800_000_001_500)
    other = await state.get(S, "other")
    assert other is not None
    assert other.version == 1


async def test_a_key_made_again_never_has_an_old_version(state: StateRepository, clock: Clock) -> None:
    seen = set()
    for _ in range(3):
        for _ in range(2):
            seen.add((await state.set(S, "k", "1", ttl=10)).version)
        await state.delete(S, "k")
        seen.add((await state.set(S, "k", "1", ttl=10)).version)
        clock.at += 11  # expired, not swept
        seen.add((await state.set(S, "k", "1", ttl=10)).version)
        clock.at += 11
        await state.sweep()
    assert len(seen) == 12
    assert (await state.set(S, "k", "1")).version > max(seen)


async def test_if_version_and_if_absent(state: StateRepository) -> None:
    await state.set(S, "k", "1", if_absent=True)
    with pytest.raises(CallerError) as caught:
        await state.set(S, "k", "2", if_absent=True)
    assert code(caught) is Code.ABORTED
    await state.set(S, "k", "2", if_version=1)
    for key, version in (("k", 1), ("k", 3), ("nothing", 0), ("nothing", 1)):
        with pytest.raises(CallerError) as caught:
            await state.set(S, key, "3", if_version=version)
        assert code(caught) is Code.ABORTED
        with pytest.raises(CallerError) as caught:
            await state.delete(S, key, if_version=version)
        assert code(caught) is Code.ABORTED
    assert await state.delete(S, "k", if_version=2)
    assert not await state.delete(S, "k")


async def test_of_many_writers_with_one_version_one_wins(state: StateRepository) -> None:
    await state.set(S, "k", "0")
    outcomes = await asyncio.gather(
        *(state.set(S, "k", str(n), if_version=1) for n in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, CallerError) for outcome in outcomes) == 19


async def test_what_has_expired_is_absent_everywhere(state: StateRepository, clock: Clock) -> None:
    await state.set(S, "gone", "5", ttl=0.25)
    await state.set(S, "kept", "5", ttl=0.75)
    clock.at += 0.5

    assert await state.get(S, "gone") is None
    assert await state.list_keys(S) == (["kept"], None)
    with pytest.raises(CallerError):
        await state.set(S, "gone", "1", if_version=1)
    assert not await state.delete(S, "gone")
    await state.set(S, "gone", "1", ttl=0.1)
    clock.at += 0.1
    assert await state.increment(S, "gone") == 1
    assert (await state.set(S, "kept", "6", if_version=1)).version == 2
    clock.at += 1e6
    assert await state.list_keys(S) == (["gone", "kept"], None), "a write without a ttl ends an earlier one"


async def test_an_increment_keeps_the_expiry(state: StateRepository, clock: Clock) -> None:
    await state.set(S, "k", "5", ttl=10)
    assert await state.increment(S, "k", -2) == 3
    clock.at += 11
    assert await state.get(S, "k") is None


async def test_sweeping_takes_back_the_room(state: StateRepository, clock: Clock) -> None:
    tight = StateRepository(state._db, max_keys=SWEEP_BATCH + 20, clock=clock)
    await asyncio.gather(*(tight.set(S, f"k{n}", "1", ttl=1) for n in range(SWEEP_BATCH + 20)))
    await tight.set("shop.Other.v1", "k", "1", ttl=1)
    await tight.set("shop.Other.v1", "stays", "1")
    clock.at += 2

    assert await state.sweep() == SWEEP_BATCH + 1
    assert await state.sweep() == 20
    assert await state.sweep() == 0
    assert await state.list_keys("shop.Other.v1") == (["stays"], None)


async def test_keeps_swept_until_it_is_cancelled(state: StateRepository, clock: Clock) -> None:
    await state.set(S, "k", "1", ttl=1)
    clock.at += 2
    task = asyncio.create_task(state.keep_swept(0.001))
    while await state._db.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM insula_state").scalar()):
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_sweep_that_fails_is_logged_and_the_next_one_comes(
    state: StateRepository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    swept = asyncio.Event()
    sweeps = 0

    async def sweep() -> int:
        nonlocal sweeps
        sweeps += 1
        if sweeps == 1:
            raise KeyError("lost")
        swept.set()
        return 0

    monkeypatch.setattr(state, "sweep", sweep)
    task = asyncio.create_task(state.keep_swept(0.001))
    await swept.wait()
    task.cancel()
    assert "expired values were not swept" in caplog.text
    assert "KeyError" in caplog.text


async def test_counts_every_increment(state: StateRepository) -> None:
    totals = await asyncio.gather(*(state.increment(S, "n") for _ in range(100)))
    assert sorted(totals) == list(range(1, 101))
    value = await state.get(S, "n")
    assert value is not None
    assert (value.data, value.version) == ("100", 100)


async def test_two_servers_on_one_database_count_every_increment(db: Database, url: str) -> None:
    other = await Database.open(url)
    states = [StateRepository(db), StateRepository(other)]
    await asyncio.gather(*(states[n % 2].increment(f"shop.S{n % 3}.v1", "n") for n in range(120)))
    assert [await states[0].increment(f"shop.S{n}.v1", "n") for n in range(3)] == [41, 41, 41]
    await other.close()


@pytest.mark.parametrize(
    ("value", "delta", "total"),
    [
        (None, 5, 5),
        ("9007199254740993", 1, 9007199254740994),
        (str(MAX_INT - 1), 1, MAX_INT),
        (str(-MAX_INT), -1, -MAX_INT - 1),
        ("-0", 0, 0),
        ("1", 0.5, 1.5),
        ("1.5", 1, 2.5),
        ("1e3", 1, 1001.0),
        ("2.0", 0, 2.0),
    ],
)
async def test_sums(state: StateRepository, value: str | None, delta: float, total: float) -> None:
    if value is not None:
        await state.set(S, "n", value)
    result = await state.increment(S, "n", delta)
    assert (result, type(result)) == (total, type(total))
    assert await state.increment(S, "n", 0) == total


@pytest.mark.parametrize(
    ("value", "delta", "expected"),
    [
        ('"1"', 1, Code.FAILED_PRECONDITION),
        ("true", 1, Code.FAILED_PRECONDITION),
        ("null", 1, Code.FAILED_PRECONDITION),
        ("[1]", 1, Code.FAILED_PRECONDITION),
        (str(MAX_INT), 1, Code.OUT_OF_RANGE),
        (str(-MAX_INT - 1), -1, Code.OUT_OF_RANGE),
        ("9" * 400, 1, Code.OUT_OF_RANGE),
        ("1" + "0" * 19, -1, Code.OUT_OF_RANGE),
        ("1e999", 1, Code.OUT_OF_RANGE),
        ("1.7e308", 1.7e308, Code.OUT_OF_RANGE),
        ("1", MAX_INT + 1, Code.INVALID_ARGUMENT),
        ("1", float("nan"), Code.INVALID_ARGUMENT),
    ],
)
async def test_sums_that_are_refused_change_nothing(
    state: StateRepository, value: str, delta: float, expected: Code
) -> None:
    await state.set(S, "n", value)
    with pytest.raises(CallerError) as caught:
        await state.increment(S, "n", delta)
    assert code(caught) is expected
    assert await state.get(S, "n") == (value, 1, 1_800_000_000_000)


async def test_lists_in_the_order_of_bytes(state: StateRepository) -> None:
    keys = sorted([*string.ascii_letters, *string.digits, *"_-/:", "a_", "a_b", "ab", "a-b", "aXb", "A_b"])
    for key in reversed(keys):
        await state.set(S, key, "0")

    assert await state.list_keys(S) == (keys, None)
    assert await state.list_keys(S, "a_") == (["a_", "a_b"], None)
    paged: list[str] = []
    cursor = None
    while True:
        page, cursor = await state.list_keys(S, limit=7, cursor=cursor)
        paged += page
        await state.delete(S, page[-1])  # what is removed between two pages shifts nothing
        if cursor is None:
            break
    assert paged == keys


async def test_a_full_page_that_is_the_last_has_no_cursor(state: StateRepository) -> None:
    for key in ("a", "b"):
        await state.set(S, key, "0")
    assert await state.list_keys(S, limit=2) == (["a", "b"], None)
    assert await state.list_keys(S, "z") == ([], None)


async def test_a_quota_of_keys(state: StateRepository, clock: Clock) -> None:
    tight = StateRepository(state._db, max_keys=2, clock=clock)
    await tight.set(S, "a", "1")
    await tight.set(S, "b", "1", ttl=5)
    with pytest.raises(LimitError, match="full"):
        await tight.set(S, "c", "1")
    with pytest.raises(LimitError, match="full"):
        await tight.increment(S, "c")
    await tight.set(S, "a", "2")
    await tight.set("shop.Other.v1", "c", "1")
    clock.at += 6
    await tight.set(S, "c", "1")  # what has expired makes room without waiting for the sweep
    await tight.delete(S, "a")
    await tight.set(S, "d", "1")
    assert await tight.list_keys(S) == (["c", "d"], None)


async def test_a_quota_of_bytes_counts_encoded_text(state: StateRepository, clock: Clock) -> None:
    tight = StateRepository(state._db, max_bytes=20, clock=clock)
    await tight.set(S, "a", '"ü"')  # 1 + 4
    await tight.set(S, "b", "1" * 14)
    with pytest.raises(LimitError):
        await tight.set(S, "a", '"ü1"')
    await tight.set(S, "b", "1" * 13)
    await tight.set(S, "a", '"ü1"')

    smaller = StateRepository(state._db, max_bytes=10, clock=clock)
    await smaller.set(S, "b", "1" * 12)  # over the quota, but it shrinks
    with pytest.raises(LimitError):
        await smaller.set(S, "b", "1" * 13)


async def test_a_value_has_a_largest_size(state: StateRepository) -> None:
    await state.set(S, "k", '"' + "x" * ((1 << 20) - 2) + '"')
    for value in ('"' + "x" * ((1 << 20) - 1) + '"', '"' + "ü" * (1 << 19) + '"'):
        with pytest.raises(LimitError):
            await state.set(S, "k", value)


@pytest.mark.parametrize("key", ["", "a b", "a.b", "ä", "k" * 513, "a\n", "a\0", "%"])
async def test_keys_that_are_none(state: StateRepository, key: str) -> None:
    for attempt in (state.get(S, key), state.set(S, key, "1"), state.delete(S, key), state.increment(S, key)):
        with pytest.raises(CallerError, match="key"):
            await attempt
    if key:
        with pytest.raises(CallerError, match="prefix"):
            await state.list_keys(S, key)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e30])
async def test_times_to_live_that_are_none(state: StateRepository, ttl: float) -> None:
    with pytest.raises(CallerError, match="ttl"):
        await state.set(S, "k", "1", ttl=ttl)
