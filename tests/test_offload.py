"""Threads that services share: each has its part, a newcomer has its turn, and who sends too much is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from insula.errors import UnavailableError
from insula.offload import Offload
from tests.edge.conftest import until
from tests.scarce import refuse_threads


class Gate:
    """Work that waits until it is let through, and notes that it began."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun: list[str] = []

    def work(self, name: str) -> str:
        self.begun.append(name)
        assert self.open.wait(30)
        return name


@pytest_asyncio.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


async def test_what_is_returned_and_raised_comes_back() -> None:
    offload = Offload(threads=2)
    assert await offload.run("a", divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await offload.run("a", divmod, 7, 0)
    offload.close()


async def test_one_service_leaves_a_thread_to_the_next(gate: Gate) -> None:
    offload = Offload(threads=3)
    greedy = [offload.run("greedy", gate.work, f"g{number}") for number in range(20)]
    await until(lambda: len(gate.begun) == 2)
    async with asyncio.timeout(10):
        assert await offload.run("other", str, 1) == "1"
    assert gate.begun == ["g0", "g1"]
    gate.open.set()
    assert await asyncio.gather(*greedy) == [f"g{number}" for number in range(20)]
    offload.close()


async def test_each_in_turn(gate: Gate) -> None:
    offload = Offload(threads=2)
    work = [offload.run(name, gate.work, name) for name in ("first", *"aaaa", *"bb", "c")]
    await until(lambda: len(gate.begun) == 2)
    gate.open.set()
    await asyncio.gather(*work)
    assert sorted(gate.begun[:2]) == ["a", "first"]
    assert "c" in gate.begun[2:5]  # though six came before it
    offload.close()


async def test_who_sends_too_much_is_refused_and_no_other(gate: Gate) -> None:
    offload = Offload(threads=2, most=8)
    work = [offload.run("greedy", gate.work, "g") for _ in range(4)]
    assert not offload.has_room("greedy")
    with pytest.raises(UnavailableError) as refused:
        offload.run("greedy", gate.work, "g")
    assert refused.value.reason == "backlog_full"
    async with asyncio.timeout(10):
        assert await offload.run("other", str, 1) == "1"
    gate.open.set()
    await asyncio.gather(*work)
    assert offload.has_room("greedy")
    offload.close()


async def test_what_nobody_waits_for_any_more_is_not_done(gate: Gate) -> None:
    offload = Offload(threads=2, most=8)
    work = [offload.run("a", gate.work, f"a{number}") for number in range(4)]
    await until(lambda: gate.begun)
    for each in work:
        each.cancel()
    gate.open.set()
    await until(lambda: offload.has_room("a"))
    assert await offload.run("a", str, 2) == "2"
    assert gate.begun == ["a0"]
    offload.close()


async def test_a_thread_that_the_system_refuses_takes_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    offload = Offload(threads=3, most=8)
    with refuse_threads(monkeypatch):
        for number in range(10):
            with pytest.raises(UnavailableError, match="starts no more threads"):
                await offload.run(f"t{number}", len, "abc")
    async with asyncio.timeout(10):
        for tenant in ("t0", "t9", "other"):
            assert await offload.run(tenant, len, "abc") == 3
    work = [offload.run("t0", len, "abc") for _ in range(4)]
    assert await asyncio.gather(*work) == [3] * 4
    offload.close()


async def test_the_end_withdraws_what_waits(gate: Gate) -> None:
    offload = Offload(threads=2)
    work = [offload.run("a", gate.work, f"a{number}") for number in range(3)]
    await until(lambda: gate.begun)
    offload.close()
    gate.open.set()
    assert await work[0] == "a0"
    assert [each.cancelled() for each in work] == [False, True, True]
