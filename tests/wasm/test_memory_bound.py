"""The bound on the memory of all guests, tried by guests that grow where nobody looks: between two looks of the loop, while
they wait, and while they start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from insula.errors import LimitError
from insula.wasm.contract import GuestLimits, Program
from insula.wasm.engine import NativeEngine, OwnedInstance
from tests.wasm.native.guests import HOST, host, program
from tests.wasm.test_contract import Steps

MB = 1 << 20
BOUND = 300 * MB
GUEST = GuestLimits(memory_bytes=64 * MB)
#: Fills all the memory that there is.
FILL = "(memory.fill (i32.const 0) (i32.const 1) (i32.mul (memory.size) (i32.const 65536)))"
GROW = "(if (i32.eq (memory.grow (i32.const 880)) (i32.const -1)) (then unreachable))"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[NativeEngine]:
    engine = await NativeEngine.open(tmp_path, guest_memory=BOUND)
    yield engine
    await engine.close()


def begun(made: Program, instance: Any, export: str) -> asyncio.Future[bytes]:
    """A call; what it answers at once is a future as well."""
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    try:
        answer = made.runner(Steps(export))(instance, b"", None, time.monotonic() + 20)
    except LimitError as error:
        future.set_exception(error)
        return future
    if not isinstance(answer, bytes):
        return answer
    future.set_result(answer)
    return future


async def outcomes(calls: list[asyncio.Future[bytes]]) -> list[str]:
    """`ok`, or the reason of each refusal."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, bytes | LimitError), answer
    return [answer.reason or "" if isinstance(answer, LimitError) else "ok" for answer in answers]


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


async def test_quick_calls_that_only_grow_do_not_use_what_they_took(engine: NativeEngine) -> None:
    """A growth is one instruction, and dozens fit in one turn of the loop. To use the memory takes longer than that."""
    made = await program(
        engine,
        f"""(module (memory (export "memory") 1) (func (export "grow") (result i32) {GROW} (memory.size))
             (func (export "fill") (result i32) {FILL} (memory.size)))""",
        limits=GUEST,
    )
    instances = [await made.instantiate() for _ in range(24)]
    before = resident()
    assert await outcomes([begun(made, each, "grow") for each in instances]) == ["ok"] * 24
    await asyncio.sleep(0)
    filled = await outcomes([begun(made, each, "fill") for each in instances])
    assert set(filled) == {"ok", "guest_memory"}
    assert resident() - before <= BOUND
    assert engine.guest_memory.held <= 24 * 56 * MB
    for each in instances:
        each.close()


async def test_guests_that_grow_and_then_wait_are_bounded(engine: NativeEngine) -> None:
    go = asyncio.Event()

    async def wait(scope: Any, request: bytes) -> bytes:
        await go.wait()
        return b""

    made = await program(
        engine,
        f"""(module {HOST} (memory (export "memory") 1) (func (export "go") (result i32)
             {GROW} (drop (call $h (i32.const 0) (i32.const 0))) {FILL} (memory.size)))""",
        host(wait),
        limits=GUEST,
    )
    instances = [await made.instantiate() for _ in range(24)]
    before = resident()
    calls = [begun(made, each, "go") for each in instances]
    await asyncio.sleep(0)
    assert engine.guest_memory.held <= BOUND + 56 * MB
    go.set()
    found = await outcomes(calls)
    assert 4 <= found.count("ok") <= 5
    assert set(found) == {"ok", "guest_memory"}
    assert resident() - before <= BOUND
    for each in instances:
        each.close()


@pytest.mark.parametrize("when", ["start", "_initialize"])
async def test_guests_that_grow_while_they_start_are_bounded(engine: NativeEngine, when: str) -> None:
    """Of an instance that is being made nobody can say how much memory it has."""
    begin = "(start $s)" if when == "start" else '(export "_initialize" (func $s))'
    made = await program(
        engine,
        f"""(module (memory (export "memory") 1) {begin} (func $s (local $i i64)
             (drop (memory.grow (i32.const 880))) {FILL}
             (loop (br_if 0 (i64.lt_u (local.tee $i (i64.add (local.get $i) (i64.const 1))) (i64.const 300000000)))))
             (func (export "go") (result i32) (memory.size)))""",
        limits=GUEST,
    )
    before = resident()
    starts = [made.instantiate() for _ in range(16)]
    memory = engine.guest_memory
    while not all(start.done() for start in starts):
        assert memory.held + memory.leased <= BOUND
        await asyncio.sleep(0.005)
    assert resident() - before <= BOUND
    assert memory.leased == 0
    assert memory.held == sum(each.size() for each in made._instances)  # type: ignore[attr-defined]
    made.close()
    assert (memory.held, memory.leased) == (0, 0)


async def test_a_bound_that_was_low_for_a_while_is_not_kept(engine: NativeEngine) -> None:
    """Memory was scarce when the instance was called; now there is plenty."""
    made = await program(
        engine,
        f"""(module (memory (export "memory") 1) (func (export "quick") (result i32) (memory.size))
             (func (export "grow") (result i32) {GROW} (memory.size)))""",
        limits=GUEST,
    )
    others = await program(
        engine,
        """(module (memory (export "memory") 1) (func (export "grow") (result i32)
             (memory.grow (i32.const 700))))""",
        limits=GUEST,
    )
    instance = await made.instantiate()
    assert isinstance(instance, OwnedInstance)
    hogs = []
    for _ in range(4):
        hogs.append(await others.instantiate())
        await begun(others, hogs[-1], "grow")
        await asyncio.sleep(0)
    assert engine.guest_memory.scarce
    assert await begun(made, instance, "quick") == b"1"
    for hog in hogs:
        hog.close()
    others.close()
    assert not engine.guest_memory.scarce
    for _ in range(3):
        assert await begun(made, instance, "quick") == b"1"
    assert await begun(made, instance, "grow") == b"881"
    instance.close()


async def test_who_took_it_is_refused_and_nobody_else(engine: NativeEngine) -> None:
    large = await program(
        engine,
        f'(module (memory (export "memory") 1) (func (export "grow") (result i32) {GROW} (memory.size)))',
        limits=GUEST,
    )
    small = await program(
        engine,
        """(module (memory (export "memory") 1) (func (export "grow") (result i32)
             (memory.grow (i32.const 1)) (drop) (memory.size)))""",
        limits=GuestLimits(memory_bytes=8 * MB),
    )
    modest = await small.instantiate()
    instances = [await large.instantiate() for _ in range(12)]
    await outcomes([begun(large, each, "grow") for each in instances])
    await asyncio.sleep(0)
    assert engine.guest_memory.held > BOUND
    assert await begun(small, modest, "grow") == b"1"
    for each in instances[4:]:
        each.close()
    assert await begun(small, modest, "grow") == b"2", "what is kept for each is there again"
    for each in (modest, *instances[:4]):
        each.close()
