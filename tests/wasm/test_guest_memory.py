"""The bound on the memory of all guests together, and what it is where nobody says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from insula.errors import LimitError
from insula.wasm.contract import Limits
from insula.wasm.engine import NativeEngine
from insula.wasm.guest_memory import GuestMemory, machine_memory
from tests.wasm.floor import until
from tests.wasm.rig import Rig

MB = 1 << 20


async def test_idle_ones_are_asked_for_before_anybody_is_refused() -> None:
    memory = GuestMemory(100, asyncio.get_running_loop())
    asked: list[int] = []

    def relieve(enough: Callable[[], bool]) -> None:
        for _ in range(3):
            if enough():
                return
            asked.append(memory.held)
            memory.held -= 5

    memory.relieve = relieve
    memory.start(100)
    assert not asked
    assert memory.change(95)
    memory.start(10)
    assert asked == [95]
    with pytest.raises(LimitError) as refused:
        memory.start(90)
    assert asked == [95, 90, 85, 80]
    assert refused.value.reason == "guest_memory"


async def test_growth_near_the_bound_asks_once_for_idle_ones() -> None:
    memory = GuestMemory(100, asyncio.get_running_loop())
    asked = asyncio.Event()

    def relieve(enough: Callable[[], bool]) -> None:
        assert not enough()
        asked.set()

    memory.relieve = relieve
    assert memory.change(87)
    await asyncio.sleep(0)
    assert not asked.is_set()
    assert memory.change(5)
    assert not memory.change(20)
    assert not asked.is_set()  # on the loop, not on the thread of the guest
    await asyncio.wait_for(asked.wait(), 5)
    asked.clear()
    assert memory.change(-37)
    assert memory.change(14)
    await asyncio.wait_for(asked.wait(), 5)  # and again the next time


async def test_what_instances_have_is_counted_and_given_back(tmp_path: Path) -> None:
    engine = await NativeEngine.open(tmp_path, guest_memory=1 << 30)
    try:
        rig = await Rig.on(engine, limits=Limits(memory_bytes=64 * MB))
        assert engine.guest_memory.held == 0
        instances = [await rig.instance() for _ in range(3)]
        assert engine.guest_memory.held == sum(instance.size() for instance in instances)  # type: ignore[attr-defined]
        await rig.on_instance(instances[0], "grow", b"30")
        for _ in range(2):
            with pytest.raises(LimitError):
                await rig.call("bomb")
        # a quick call is weighed soon, also where no other comes
        await until(lambda: engine.guest_memory.held == sum(one.size() for one in instances))  # type: ignore[attr-defined]
        assert engine.guest_memory.held > 30 * MB
        instances[0].close()
        instances[0].close()
        await until(lambda: engine.guest_memory.held == sum(one.size() for one in instances[1:]))  # type: ignore[attr-defined]
        rig.program.close()
        await until(lambda: not engine.guest_memory.held)
    finally:
        await engine.close()


def test_leases_never_come_to_more_than_there_is() -> None:
    memory = GuestMemory(100, asyncio.new_event_loop())
    memory.expect(40)
    assert not memory.scarce
    assert memory.lease(40) == 40  # there is much: the whole
    assert memory.scarce
    second, third, fourth = (memory.lease(40) for _ in range(3))
    assert 40 >= second > third > fourth > 0
    assert memory.leased <= 100
    memory.settle(40)
    assert memory.lease(5) == 5
    for granted in (second, third, fourth, 5):
        memory.settle(granted)
    assert (memory.leased, memory.scarce) == (0, False)


def test_memory_is_scarce_where_two_guests_may_have_more_than_is_left() -> None:
    memory = GuestMemory(100, asyncio.new_event_loop())
    memory.change(30)
    assert not memory.scarce
    memory.expect(36)
    assert memory.scarce
    memory.change(-10)
    assert not memory.scarce


def group(root: Path, text: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(text)
    for name, content in files.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def test_the_memory_of_a_machine_is_that_of_its_container(tmp_path: Path) -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine_memory(tmp_path) == whole
    v2 = group(tmp_path / "v2", "0::/unit/inner\n", unit__inner__memory_max="max\n", unit__memory_max=f"{64 * MB}\n")
    assert machine_memory(v2) == 64 * MB
    unbound = group(tmp_path / "unbound", "0::/\n", memory_max="max\n")
    assert machine_memory(unbound) == whole
    old = group(tmp_path / "old", "5:cpu,cpuacct:/x\n4:memory:/x\n", **{"memory__memory.limit_in_bytes": str(32 * MB)})
    assert machine_memory(old) == 32 * MB
    assert 0 < machine_memory() <= whole
