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
from insula.wasm.guest_memory import GuestMemory, Tenant, machine_memory
from tests.wasm.floor import until
from tests.wasm.rig import Rig

MB = 1 << 20


async def test_idle_ones_are_closed_before_an_instance_is_refused() -> None:
    memory, tenant = GuestMemory(100, asyncio.get_running_loop()), Tenant()
    asked: list[int] = []

    def relieve(enough: Callable[[], bool], least: int) -> None:
        assert least == tenant.bytes + wanted
        for _ in range(3):
            if enough():
                return
            asked.append(memory.held)
            memory.held -= 5

    memory.relieve, wanted = relieve, 100
    memory.start(100, tenant)
    assert not asked
    assert memory.change(95, tenant)
    wanted = 10
    memory.start(10, tenant)
    assert asked == [95]
    wanted = 90
    with pytest.raises(LimitError) as refused:
        memory.start(90, tenant)
    assert asked == [95, 90, 85, 80]
    assert refused.value.reason == "guest_memory"


async def test_growth_near_the_bound_asks_once_for_idle_ones() -> None:
    memory, tenant = GuestMemory(100, asyncio.get_running_loop()), Tenant()
    asked = asyncio.Event()

    def relieve(enough: Callable[[], bool], least: int) -> None:
        assert least == tenant.bytes
        assert not enough()
        asked.set()

    memory.relieve = relieve
    assert memory.change(87, tenant)
    await asyncio.sleep(0)
    assert not asked.is_set()
    assert memory.change(5, tenant)
    assert not memory.change(20, tenant)
    assert not asked.is_set()  # on the loop, not on the thread of the guest
    await asyncio.wait_for(asked.wait(), 5)
    asked.clear()
    assert memory.change(-37, tenant)
    assert memory.change(14, tenant)
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
    memory, tenants = GuestMemory(1000, asyncio.new_event_loop()), [Tenant() for _ in range(4)]
    memory.expect(400)
    assert not memory.scarce
    granted = [memory.lease(400, tenant) for tenant in tenants]
    assert granted[0] == 400  # there is much: the whole
    assert memory.scarce
    assert 400 >= granted[1] > granted[2] > granted[3] > 0
    assert memory.leased == sum(granted) < 1000
    assert memory.lease(400, Tenant()) > 0, "something is left for one that comes later"
    for tenant, part in zip(tenants, granted, strict=True):
        memory.settle(part, tenant)
        assert tenant.bytes == 0
    assert not memory.scarce


def test_a_tenant_that_has_much_gets_no_more_while_memory_is_scarce() -> None:
    memory, greedy, modest = GuestMemory(1000, asyncio.new_event_loop()), Tenant(), Tenant()
    memory.expect(1000)
    while part := memory.lease(1000, greedy):
        assert memory.change(part, greedy)
        memory.settle(part, greedy)
    assert 790 <= greedy.bytes <= 800
    with pytest.raises(LimitError):
        memory.start(50, greedy)
    memory.start(50, modest)
    assert memory.lease(50, modest) >= 40


def test_memory_is_scarce_where_two_guests_may_have_more_than_is_left() -> None:
    memory, tenant = GuestMemory(100, asyncio.new_event_loop()), Tenant()
    memory.change(30, tenant)
    assert not memory.scarce
    memory.expect(36)
    assert memory.scarce
    memory.change(-10, tenant)
    assert not memory.scarce


def test_a_large_limit_counts_while_its_program_is_there() -> None:
    memory = GuestMemory(1000, asyncio.new_event_loop())
    memory.expect(600)
    memory.expect(600)
    memory.expect(10)
    assert memory.scarce
    memory.forget(600)
    assert memory.scarce
    memory.forget(600)
    assert not memory.scarce
    memory.forget(10)


async def test_a_closed_program_forgets_its_limit(tmp_path: Path) -> None:
    engine = await NativeEngine.open(tmp_path, guest_memory=100 * MB)
    rig = await Rig.on(engine, limits=Limits(memory_bytes=64 * MB))
    assert engine.guest_memory.scarce
    rig.program.close()
    rig.program.close()
    assert not engine.guest_memory.scarce
    await engine.close()


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
