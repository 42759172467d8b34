"""Threads shared out fairly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from insula.errors import LimitError
from insula.wasm.workers import Account, Workers


class Jobs:
    """Jobs that wait to be let go, and come back to the loop."""

    def __init__(self, threads: int, backlog: int, share: int) -> None:
        self.workers = Workers(threads, backlog, share)
        self.loop = asyncio.get_running_loop()
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.gates: dict[str, threading.Event] = {}

    def put(self, account: Account, name: str) -> Callable[[], None]:
        gate = self.gates[name] = threading.Event()

        def job() -> None:
            self.loop.call_soon_threadsafe(self.started.put_nowait, name)
            gate.wait(10)
            self.loop.call_soon_threadsafe(self.workers.done, account)

        self.workers.submit(account, job)
        return job

    async def begun(self, count: int) -> set[str]:
        return {await asyncio.wait_for(self.started.get(), 5) for _ in range(count)}


@pytest.fixture
async def jobs() -> AsyncIterator[Jobs]:
    made = Jobs(4, 6, 2)
    yield made
    for gate in made.gates.values():
        gate.set()
    made.workers.close()
    await asyncio.to_thread(made.workers.join, 5.0)


async def test_one_lane_has_its_share_and_no_more(jobs: Jobs) -> None:
    greedy, modest = Account(), Account()
    for name in "abcd":
        jobs.put(greedy, name)
    assert await jobs.begun(2) == {"a", "b"}
    assert jobs.workers.crowded
    jobs.put(modest, "x")
    assert await jobs.begun(1) == {"x"}
    jobs.gates["a"].set()
    assert await jobs.begun(1) == {"c"}


async def test_lanes_take_turns(jobs: Jobs) -> None:
    accounts = [Account() for _ in range(4)]
    for number, account in enumerate(accounts[:2]):
        for name in "ab":
            jobs.put(account, f"{number}{name}")
    assert len(await jobs.begun(4)) == 4
    jobs.put(accounts[0], "0c")
    jobs.put(accounts[2], "2a")
    jobs.put(accounts[3], "3a")
    jobs.gates["1a"].set()
    assert await jobs.begun(1) == {"2a"}
    jobs.gates["0a"].set()
    assert await jobs.begun(1) == {"3a"}


async def test_a_lane_that_has_its_share_of_the_backlog_is_refused_and_no_other(jobs: Jobs) -> None:
    greedy, modest = Account("shop.Orders.v1"), Account()
    waiting = [jobs.put(greedy, name) for name in "abcde"]
    with pytest.raises(LimitError, match=r"shop\.Orders\.v1 has 3 calls that wait for a thread"):
        jobs.workers.check_room(greedy)
    jobs.workers.check_room(modest)
    assert jobs.workers.withdraw(greedy, waiting[-1])
    assert not jobs.workers.withdraw(greedy, waiting[-1])
    assert not jobs.workers.withdraw(greedy, waiting[0])
    jobs.workers.check_room(greedy)
    assert jobs.workers.busy == 4


async def test_what_dead_instances_leave_is_given_back_while_guests_hold_every_thread(jobs: Jobs) -> None:
    accounts = Account(), Account()
    for name, account in zip("abcd", accounts * 2, strict=True):
        jobs.put(account, name)
    assert await jobs.begun(4) == set("abcd")
    tidied = threading.Event()
    jobs.workers.tidy(tidied.set)
    assert await asyncio.to_thread(tidied.wait, 10)
