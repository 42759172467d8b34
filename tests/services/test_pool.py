"""The instances of one service: which is taken, which is kept, which is closed, and what is counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from insula.calls import ServiceId
from insula.errors import GuestError, LimitError
from insula.services.counts import Counts
from insula.services.life import Life, Lives
from insula.services.pool import Pool
from tests.services.program import ManualClock, MemoryInstance, MemoryProgram, settle

IDLE_AFTER = 60.0
ID = ServiceId("shop", "Orders", "v1")


class Pond:
    """A pool over the engine in memory, and what it told."""

    def __init__(self, *, minimum: int = 0, maximum: int = 4, life: Life = Life()) -> None:  # noqa: B008
        self.clock = ManualClock()
        self.program = MemoryProgram(lambda instance, scope, method, payload: payload, self.clock)
        self.counts = Counts()
        self.told: list[BaseException | None] = []
        self.ended = 0
        self.pool = Pool(
            Lives(ID, self.program, life, self.clock, lambda home: None),
            minimum=minimum,
            maximum=maximum,
            idle_after=IDLE_AFTER,
            clock=self.clock,
            counts=self.counts,
            ready=lambda: self.told.append(None),
            failed=self.told.append,
            gone=self._gone,
        )

    def _gone(self) -> None:
        self.ended += 1

    async def start(self, count: int = 1) -> None:
        for _ in range(count):
            self.pool.start()
            await settle()

    def numbers(self) -> list[int]:
        return [instance.number for instance in self.pool.idle if isinstance(instance, MemoryInstance)]


def _any_scope(way: Callable[[], object], _scope: Any) -> object:
    return way()


async def test_what_was_used_last_is_used_next() -> None:
    pond = Pond()
    await pond.start(3)
    assert pond.numbers() == [1, 2, 3]
    first, second = pond.pool.take(), pond.pool.take()
    assert (pond.numbers(), pond.pool.busy, pond.pool.total) == ([1], 2, 3)
    pond.pool.give(first)
    pond.pool.give(second)
    assert pond.numbers() == [1, 3, 2]
    assert pond.pool.busy == 0


async def test_a_start_is_counted_and_told_after_it() -> None:
    pond = Pond()
    pond.pool.start()
    assert (pond.pool.starting, pond.pool.total, pond.told) == (1, 1, [])
    await settle()
    assert (pond.pool.starting, pond.pool.living, pond.told, pond.counts.starts) == (0, 1, [None], 1)


async def test_a_start_that_fails_whichever_way() -> None:
    pond = Pond()
    started = pond.program.instantiate

    def at_once() -> object:
        raise LimitError("no room")

    def cancelled() -> object:
        future = started()
        future.cancel()
        return future

    def later(number: int) -> Awaitable[None] | None:
        raise GuestError("trap")

    pond.program.starting = later
    ways: list[Callable[[], object]] = [started, at_once, cancelled]
    for way in ways:
        pond.program.instantiate = partial(_any_scope, way)  # type: ignore[method-assign, assignment]
        pond.pool.start()
        assert pond.pool.starting == 1
        await settle()
        assert (pond.pool.starting, pond.pool.total) == (0, 0)
    assert [type(each).__name__ for each in pond.told] == ["GuestError", "LimitError", "CancelledError"]
    assert (pond.counts.starts, pond.counts.failed_starts) == (0, 3)


async def test_what_does_not_live_is_not_kept() -> None:
    pond = Pond()
    await pond.start(2)
    instance = pond.pool.take()
    instance.alive = False
    pond.pool.give(instance)
    assert (pond.numbers(), pond.pool.living, pond.program.instances[1].closed) == ([1], 1, True)


async def test_after_the_end_everything_is_closed_when_it_comes() -> None:
    pond = Pond()
    await pond.start(3)
    busy = pond.pool.take()
    pond.pool.start()
    idle = pond.pool.idle
    pond.pool.close()
    pond.pool.close()
    assert (pond.pool.idle, pond.pool.living, pond.clock.pending) == ([], 1, 0)
    assert pond.pool.idle is idle, "others hold this very list"
    await settle()
    assert (pond.pool.living, pond.pool.starting, pond.numbers()) == (1, 0, [])
    assert pond.told == [None] * 4
    pond.pool.give(busy)
    assert (pond.pool.living, pond.pool.busy, pond.program.living) == (0, 0, 0)
    assert pond.clock.pending == 0


async def test_what_nobody_used_for_a_whole_period_is_closed_from_the_bottom() -> None:
    pond = Pond()
    await pond.start(3)
    await pond.clock.advance(IDLE_AFTER)  # all were started since the look before
    assert pond.numbers() == [1, 2, 3]
    pond.pool.give(pond.pool.take())  # the last one
    await pond.clock.advance(IDLE_AFTER)
    assert (pond.numbers(), pond.counts.passivated) == ([3], 2)
    await pond.clock.advance(IDLE_AFTER)
    assert (pond.numbers(), pond.counts.passivated, pond.program.living) == ([], 3, 0)
    assert pond.clock.pending == 0


async def test_what_was_started_right_before_a_look_is_not_idle_yet() -> None:
    pond = Pond(maximum=2)
    await pond.start()
    await pond.clock.advance(IDLE_AFTER - 1)
    pond.pool.take()
    await pond.start()
    await pond.clock.advance(1)
    assert pond.numbers() == [2]
    await pond.clock.advance(IDLE_AFTER)
    assert pond.numbers() == []


async def test_what_is_at_work_is_not_closed() -> None:
    pond = Pond()
    await pond.start(2)
    busy = pond.pool.take()
    await pond.clock.advance(3 * IDLE_AFTER)
    assert (pond.pool.living, pond.pool.busy, busy.alive) == (1, 1, True)
    pond.pool.give(busy)


@pytest.mark.parametrize(("minimum", "left"), [(0, 0), (1, 1), (3, 3), (5, 4)])
async def test_the_minimum_stays(minimum: int, left: int) -> None:
    pond = Pond(minimum=minimum)
    await pond.start(4)
    await pond.clock.advance(3 * IDLE_AFTER)
    assert (len(pond.pool.idle), pond.pool.living, pond.program.living) == (left, left, left)
    assert pond.clock.pending == 0, "a pool at its minimum costs no timer"


async def test_one_timer_looks_after_all() -> None:
    pond = Pond()
    await pond.start(4)
    assert pond.clock.pending == 1
