"""The time of guests in a turn of the loop, shared out among programs."""

from __future__ import annotations

import asyncio

import pytest

from insula.wasm import turn as room
from insula.wasm.turn import BUDGET, LITTLE, MOST, Turn
from insula.wasm.workers import Account
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "monotonic", clock)
    return clock


async def test_a_turn_is_full_once_its_time_is_used_and_empty_again_in_the_next() -> None:
    turn, account = Turn(asyncio.get_running_loop()), Account()
    turn.add(account, BUDGET / 2)
    assert not turn.full
    turn.add(account, BUDGET / 2)
    assert turn.full
    await asyncio.sleep(0)
    assert not turn.full
    turn.add(account, BUDGET / 2)
    await asyncio.sleep(0)
    turn.add(account, BUDGET / 2)
    assert not turn.full, "what one turn used is not the next one's"


async def test_jobs_take_as_many_turns_as_they_need_and_programs_take_turns(clock: Clock) -> None:
    turn = Turn(asyncio.get_running_loop())
    greedy, modest = Account(), Account()
    ran: list[str] = []

    def job(name: str) -> None:
        ran.append(name)
        clock.at += BUDGET / 2

    for n in range(6):
        turn.put(greedy, lambda n=n: job(f"g{n}"))  # type: ignore[misc]
    turn.put(modest, lambda: job("m"))
    seen: list[int] = []
    while turn.full:
        await asyncio.sleep(0)
        seen.append(len(ran))
    assert ran == ["g0", "m", "g1", "g2", "g3", "g4", "g5"]
    assert seen == [2, 4, 6, 7]


async def test_while_jobs_wait_every_turn_is_full(clock: Clock) -> None:
    turn = Turn(asyncio.get_running_loop())
    account = Account()

    def job() -> None:
        clock.at += BUDGET

    turn.put(account, job)
    turn.put(account, job)
    assert turn.full
    await asyncio.sleep(0)
    assert turn.full, "one more waits: who comes now would overtake it"
    await asyncio.sleep(0)
    assert not turn.full


async def test_a_job_is_taken_back(clock: Clock) -> None:
    turn = Turn(asyncio.get_running_loop())
    account, ran = Account(), list[int]()
    jobs = [lambda n=n: ran.append(n) for n in range(3)]
    for job in jobs:
        turn.put(account, job)
    turn.withdraw(account, jobs[1])
    await asyncio.sleep(0)
    assert ran == [0, 2]
    turn.put(account, jobs[0])
    turn.withdraw(account, jobs[0])
    await asyncio.sleep(0)
    assert ran == [0, 2]
    assert not turn.full


async def test_a_program_that_has_had_little_of_a_full_turn_is_not_delayed() -> None:
    turn, greedy, modest = Turn(asyncio.get_running_loop()), Account(), Account()
    turn.add(greedy, BUDGET)
    assert turn.full
    assert not turn.has_time(greedy)
    assert turn.has_time(modest)
    turn.add(modest, LITTLE / 2)
    assert turn.has_time(modest)
    turn.add(modest, LITTLE / 2)
    assert not turn.has_time(modest), "it has had its part"
    turn.add(greedy, MOST)
    assert not turn.has_time(Account()), "there is an end for all"
    await asyncio.sleep(0)
    assert turn.has_time(modest)
    turn.put(modest, lambda: None)
    assert not turn.has_time(modest), "one that waits is not overtaken"
    await asyncio.sleep(0)
