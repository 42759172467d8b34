"""The memory of an instance, and the end of its store."""

from __future__ import annotations

import ctypes

import pytest

from insula.errors import GuestError, LimitError
from insula.wasm.contract import Engine, GuestLimits
from insula.wasm.engine import NativeEngine, OwnedInstance
from insula.wasm.native import pages
from insula.wasm.native.callbacks import cells
from insula.wasm.native.library import delete_trap, memory_base
from insula.wasm.pace import Pace
from tests.wasm.floor import until
from tests.wasm.native.guests import program, run
from tests.wasm.test_contract import Steps


async def test_a_view_is_never_older_than_what_is_read(engine: Engine) -> None:
    made = await program(
        engine,
        """(module (memory (export "memory") 1) (func (export "go"))
             (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))""",
        limits=GuestLimits(memory_bytes=4 << 20),
    )
    instance = await made.instantiate()
    assert isinstance(instance, OwnedInstance)
    first = memory_base(instance._context, instance._memory)
    with pytest.raises(GuestError, match="outside its memory of 65536 bytes"):
        instance.read(65535, 2)
    assert instance.call("grow", 20) == 1
    instance.write(21 * 65536 - 4, b"last")
    assert instance.read(21 * 65536 - 4, 4) == b"last"
    assert instance.read(65530, 12) == bytes(12)
    assert memory_base(instance._context, instance._memory) == first, "memories do not move"
    assert instance.call("grow", 1000) == 2**32 - 1, "memory.grow fails at the limit, without a trap"
    for pointer, size in ((2**32 - 1, 2**32 - 1), (0, 2**32 - 1), (21 * 65536, 1), (-1, 1), (0, -1), (2**40, 1)):
        with pytest.raises((GuestError, LimitError)):
            instance.read(pointer, size)
    with pytest.raises(GuestError):
        instance.write(21 * 65536 - 3, b"last")
    instance.close()
    with pytest.raises(GuestError):
        instance.read(0, 1)


async def test_what_is_freed_is_freed_once_and_forgotten(engine: Engine) -> None:
    made = await program(engine, '(module (memory (export "memory") 1) (func (export "go")))')
    before = len(cells)
    instances = [await made.instantiate() for _ in range(20)]
    assert len(cells) == before + 20
    for instance in [*instances, *instances]:
        instance.close()
    assert len(cells) == before
    assert isinstance(engine, NativeEngine)
    assert engine.schedule.instances == 0


async def test_a_large_memory_is_given_back_in_pieces(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[tuple[int, int]] = []
    empty: list[bool] = []

    def note(base: int, size: int, advice: int) -> None:
        advise(base, size, advice)
        empty.append((ctypes.c_char * size).from_address(base).raw == bytes(size))
        pieces.append((base, size))

    advise = pages._advise
    monkeypatch.setattr(pages, "_advise", note)
    made = await program(
        engine,
        f"""(module (memory (export "memory") {9 * 16 + 1}) (func (export "go")
             (memory.fill (i32.const 0) (i32.const 7) (i32.const {9 << 20}))))""",
        limits=GuestLimits(memory_bytes=16 << 20),
    )
    instance = await made.instantiate()
    assert isinstance(instance, OwnedInstance)
    instance.call("go")
    base = memory_base(instance._context, instance._memory)
    instance.close()  # a thread frees what is large
    await until(lambda: len(pieces) == 3)
    assert all(empty)
    assert pieces == [(base, 4 << 20), (base + (4 << 20), 4 << 20), (base + (8 << 20), (1 << 20) + 65536)]


async def test_the_code_of_a_module_goes_with_its_last_instance(engine: Engine) -> None:
    made = await program(engine, '(module (memory (export "memory") 1) (func (export "go")))')
    instances = [await made.instantiate() for _ in range(2)]
    assert isinstance(instances[0], OwnedInstance)
    template = instances[0].template
    template.close()
    for instance in instances:
        assert template._pre, "an instance may still run"
        instance.close()
    assert not template._pre


async def test_the_trap_behind_an_error_of_the_host_is_freed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the host raised first is told, and nobody gets the trap."""
    freed: list[int] = []

    def free(trap: int) -> None:
        freed.append(trap)
        delete_trap(trap)

    monkeypatch.setattr("insula.wasm.native.cell.delete_trap", free)
    made = await program(engine, '(module (memory (export "memory") 1) (func (export "go") (unreachable)))')
    instance = await made.instantiate()
    assert isinstance(instance, OwnedInstance)
    instance.failure = LimitError("no room")
    with pytest.raises(LimitError, match="no room"):
        instance.call("go")
    assert len(freed) == 1
    assert freed[0]
    instance.close()


async def test_fresh_instances_leave_nothing_behind(engine: Engine) -> None:
    import psutil

    made = await program(
        engine, '(module (memory (export "memory") 4) (func (export "go") (result i32) (i32.const 7)))'
    )
    pace = Pace()

    async def some(count: int) -> int:
        for _ in range(count):
            steps = Steps("go")
            steps.pace = pace
            assert await run(made, steps) == b"7"
        return int(psutil.Process().memory_info().rss)

    before = await some(1000)
    assert await some(3000) < before * 1.05
