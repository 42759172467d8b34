"""The bound on the memory of all guests together, and what it is where nobody says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.errors import LimitError
from insula.wasm.contract import GuestLimits
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
        rig = await Rig.on(engine, limits=GuestLimits(memory_bytes=64 * MB))
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


def memory_of(most: int, *limits: int) -> tuple[GuestMemory, list[Tenant]]:
    memory, tenants = GuestMemory(most * MB, asyncio.new_event_loop()), [Tenant(limit * MB) for limit in limits]
    for tenant in tenants:
        memory.join(tenant)
    return memory, tenants


def taken(memory: GuestMemory, tenant: Tenant) -> None:
    """The tenant takes what it gets."""
    part = memory.lease(tenant.limit, tenant)
    memory.change(part, tenant)
    memory.settle(part, tenant)


def test_leases_never_come_to_more_than_there_is() -> None:
    memory, tenants = memory_of(1000, 400, 400, 400, 400, 400)
    assert not memory.scarce
    granted = [memory.lease(400 * MB, tenant) for tenant in tenants[:4]]
    assert granted[0] == 400 * MB  # there is much: the whole
    assert memory.scarce
    assert 400 * MB >= granted[1] > granted[2] > granted[3] > 0
    assert memory.leased == sum(granted) < 1000 * MB
    assert memory.lease(400 * MB, tenants[4]) > 0, "something is left for one that comes later"
    for tenant, part in zip(tenants, granted, strict=False):
        memory.settle(part, tenant)
        assert tenant.bytes == 0


def test_what_a_guest_takes_of_its_lease_is_counted_once() -> None:
    memory, (greedy, modest) = memory_of(300, 240, 64)
    lease = memory.lease(180 * MB, greedy)
    memory.change(170 * MB, greedy, out_of_lease=170 * MB)
    assert (memory.held, memory.leased, greedy.bytes) == (170 * MB, lease - 170 * MB, lease)
    assert memory.lease(4 * MB, modest) == 4 * MB, "it has what is kept for it while the other one runs"
    memory.settle(lease - 170 * MB, greedy)
    assert greedy.bytes == memory.held == 170 * MB


def test_a_tenant_that_has_much_gets_no_more_while_memory_is_scarce() -> None:
    memory, (greedy, modest) = memory_of(1000, 1000, 64)
    for _ in range(100):
        taken(memory, greedy)
    assert 780 * MB <= greedy.bytes <= memory.most_of_one < 800 * MB
    with pytest.raises(LimitError):
        memory.start(50 * MB, greedy)
    memory.start(50 * MB, modest)
    assert memory.lease(50 * MB, modest) >= 40 * MB


def test_many_greedy_tenants_leave_its_part_to_one_that_has_nothing() -> None:
    memory, (little, *greedy) = memory_of(300, 8, *[256] * 40)
    for _ in range(200):
        for tenant in greedy:
            taken(memory, tenant)
    memory.start(2 * MB, little)
    memory.change(2 * MB, little)
    assert memory.lease(1 * MB, little) == 1 * MB
    assert memory.held + memory.leased <= memory.most


def test_memory_is_scarce_where_two_guests_may_have_more_than_is_left() -> None:
    memory, (tenant,) = memory_of(100, 36)
    assert not memory.scarce
    memory.change(30 * MB, tenant)
    assert memory.scarce
    memory.change(-10 * MB, tenant)
    assert not memory.scarce


def test_a_large_limit_counts_while_its_program_is_there() -> None:
    memory, (large, other, _) = memory_of(1000, 600, 600, 10)
    assert memory.scarce
    memory.leave(large)
    assert memory.scarce
    memory.leave(other)
    memory.leave(other)
    assert not memory.scarce


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.booleans()), max_size=60))
def test_what_is_kept_for_tenants_is_what_they_lack(steps: list[tuple[int, int, bool]]) -> None:
    memory, tenants = memory_of(100, *[64] * 5)
    late = Tenant(64 * MB)
    for number, size, leaves in steps:
        tenant = [*tenants, late][number]
        if leaves:
            memory.leave(tenant)
        else:
            memory.join(tenant)
        part = memory.lease(size * MB, tenant)
        memory.change(min(part, size * MB // 2), tenant)
        memory.settle(part, tenant)
        assert memory._kept == sum(memory._lacks(one) for one in memory._tenants)
        assert memory.held <= memory.most
        assert memory.leased == 0


async def test_a_closed_program_forgets_its_limit(tmp_path: Path) -> None:
    engine = await NativeEngine.open(tmp_path, guest_memory=100 * MB)
    rig = await Rig.on(engine, limits=GuestLimits(memory_bytes=64 * MB))
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
