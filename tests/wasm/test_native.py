"""What could end the process, and what holds it off: each case here dies, hangs or answers wrongly without its guard."""

from __future__ import annotations

import asyncio
import faulthandler
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from insula.errors import GuestError, InsulaError, LimitError
from insula.wasm import native
from insula.wasm.contract import Engine, Exchange, HostImport, Limits, Program, Signature, WasiOptions
from insula.wasm.engine import NativeEngine, NativeProgram, OwnedInstance
from insula.wasm.machine import machine
from insula.wasm.pace import Pace
from tests.guests import digest, wat
from tests.wasm.conftest import ENGINES
from tests.wasm.floor import until
from tests.wasm.test_contract import Steps


@pytest.fixture
async def engine(cache: Path) -> Any:
    engine = await ENGINES["native"](cache)
    yield engine
    await engine.close()


async def program(engine: Engine, text: str, *imports: HostImport, limits: Limits | None = None) -> Program:
    path = wat(text)
    return engine.link(
        await engine.load(path, digest(path)), imports, limits or Limits(memory_bytes=8 << 20), WasiOptions()
    )


async def run(made: Program, exchange: Exchange, *, within: float = 5.0) -> bytes:
    instance = await made.instantiate()
    try:
        answer = made.runner(exchange)(instance, b"", None, time.monotonic() + within)
        return answer if isinstance(answer, bytes) else await answer
    finally:
        instance.close()


def host(function: Any, give: Any = lambda guest, answer: (0,)) -> HostImport:
    return HostImport("t", "h", Signature(("i32", "i32"), ("i32",)), lambda guest, args: b"", function, give)


HOST = '(import "t" "h" (func $h (param i32 i32) (result i32)))'


class Early(Steps):
    """Calls a helper export before the entry."""

    def __init__(self, helper: str, *args: int) -> None:
        super().__init__("go")
        self.helper, self.args = helper, args
        self.got = 0

    def begin(self, guest: Any, payload: bytes) -> tuple[int, ...]:
        self.got = guest.call(self.helper, *self.args)
        return ()


# Buffers and types


@pytest.mark.parametrize("count", [native.ROOM + 1, 200])
async def test_a_signature_longer_than_the_buffers_is_refused(engine: Engine, count: int) -> None:
    params, results = " i32" * count, "(i32.const 1)" * count
    text = f"""(module (memory (export "memory") 1) (func (export "go"))
      (func (export "wide") (param{params})) (func (export "long") (result{params}) {results}))"""
    made = await program(engine, text)
    with pytest.raises(GuestError, match="cannot be called"):
        await run(made, Early("wide", *range(count)))
    with pytest.raises(GuestError, match="cannot be called"):
        await run(made, Early("long"))


async def test_other_numbers_of_arguments_and_other_types_are_refused(engine: Engine) -> None:
    made = await program(
        engine,
        """(module (memory (export "memory") 1) (func (export "go"))
             (func (export "two") (param i32 i32)) (func (export "float") (param f64)))""",
    )
    for wrong in (Early("two", 1), Early("two", 1, 2, 3), Early("float", 1), Early("none"), Early("memory")):
        with pytest.raises(GuestError):
            await run(made, wrong)


async def test_the_upper_half_of_a_short_value_is_masked(engine: Engine) -> None:
    made = await program(
        engine,
        """(module (memory (export "memory") 1) (func (export "go"))
             (func (export "long") (param i64) (result i64) (local.get 0))
             (func (export "short") (param i32) (result i32) (i32.const -1)))""",
    )
    instance = await made.instantiate()
    assert isinstance(instance, OwnedInstance)
    assert instance.call("long", 2**64 - 1) == 2**64 - 1
    assert instance.call("short", 7) == 2**32 - 1
    assert instance.launch("short", (2**63 + 7,)) == 2**32 - 1
    instance.close()


# Callbacks


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt, MemoryError])
async def test_nothing_that_is_raised_leaves_a_callback(engine: Engine, error: type[BaseException]) -> None:
    def fail(scope: Any, request: bytes) -> bytes:
        raise error("no")

    made = await program(
        engine,
        f'(module {HOST} (memory (export "memory") 1) (func (export "go") (drop (call $h (i32.const 0) (i32.const 0)))))',
        host(fail),
    )
    with pytest.raises(InsulaError, match="inside the server"):
        await run(made, Steps("go"))


async def test_a_helper_export_may_call_the_host_without_ending_the_process(engine: Engine) -> None:
    text = f"""(module {HOST} (memory (export "memory") 1)
      (func (export "allocate") (param i32) (result i32) (call $h (i32.const 0) (i32.const 0)))
      (func (export "go") (drop (call $h (i32.const 0) (i32.const 0)))))"""
    depth = 0

    def give(guest: Any, answer: bytes) -> tuple[int, ...]:
        nonlocal depth
        depth += 1
        return (guest.call("allocate", 1) if depth < 3 else 9,)

    made = await program(engine, text, host(lambda scope, request: b"", give))
    early = Early("allocate", 1)
    await run(made, early)
    assert early.got == 9
    assert depth == 4


async def test_a_guest_does_not_yield_with_the_interpreter_on_its_stack(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper under a host function runs over many slices: the fiber is suspended only once it is out of that."""
    monkeypatch.setattr("insula.wasm.instance.INLINE_CPU", 60.0)  # how long it may take is not the question here
    text = f"""(module {HOST} (memory (export "memory") 1)
      (func (export "allocate") (param i32) (result i32) (local $n i32)
        (loop (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 16000000))))
        (local.get $n))
      (func (export "go") (result i32) (call $h (i32.const 0) (i32.const 0))))"""
    made = await program(
        engine, text, host(lambda scope, request: b"", lambda guest, answer: (guest.call("allocate", 1),))
    )
    assert await asyncio.gather(*(run(made, Steps("go")) for _ in range(3))) == [b"16000000"] * 3


# Time


async def test_a_guest_that_no_clock_was_set_for_runs_all_the_same(engine: Engine) -> None:
    made = await program(
        engine, '(module (memory (export "memory") 1) (func (export "go") (result i32) (i32.const 1)))'
    )
    instance = await made.instantiate()
    ticker = machine().ticker
    for _ in range(3):  # the epoch moves on: an old deadline would be over
        answer = made.runner(Steps("go"))(instance, b"", None, time.monotonic() + 5)
        assert (answer if isinstance(answer, bytes) else await answer) == b"1"
        over = ticker.epoch + 4
        await until(lambda over=over: ticker.epoch >= over)  # type: ignore[misc]
    instance.close()


@pytest.mark.parametrize("waits", [False, True])
async def test_a_helper_that_never_ends_does_not_hold_the_loop(engine: Engine, waits: bool) -> None:
    text = f"""(module {HOST if waits else ""} (memory (export "memory") 1) (func (export "go"))
      (func (export "allocate") (param i32) (result i32) (loop (br 0)) (i32.const 0)))"""
    made = await program(engine, text, *([host(lambda scope, request: b"")] if waits else []))
    steps = Early("allocate", 1)
    with pytest.raises(InsulaError):
        await run(made, steps, within=60.0)
    assert steps.pace.slow
    assert isinstance(engine, NativeEngine)
    instance = await made.instantiate()
    call = made.runner(steps)(instance, b"", None, time.monotonic() + 0.2)  # in a worker now
    assert not isinstance(call, bytes)
    with pytest.raises(InsulaError, match="in time"):
        await call
    assert await engine.schedule.idle(5.0)


# Memory


async def test_a_view_is_never_older_than_what_is_read(engine: Engine) -> None:
    made = await program(
        engine,
        """(module (memory (export "memory") 1) (func (export "go"))
             (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))""",
        limits=Limits(memory_bytes=4 << 20),
    )
    instance = await made.instantiate()
    assert isinstance(instance, OwnedInstance)
    first = native._memory_base(instance._context, instance._memory)
    with pytest.raises(GuestError, match="outside its memory of 65536 bytes"):
        instance.read(65535, 2)
    assert instance.call("grow", 20) == 1
    instance.write(21 * 65536 - 4, b"last")
    assert instance.read(21 * 65536 - 4, 4) == b"last"
    assert instance.read(65530, 12) == bytes(12)
    assert native._memory_base(instance._context, instance._memory) == first, "memories do not move"
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
    before = len(native._cells)
    instances = [await made.instantiate() for _ in range(20)]
    assert len(native._cells) == before + 20
    for instance in [*instances, *instances]:
        instance.close()
    assert len(native._cells) == before
    assert isinstance(engine, NativeEngine)
    assert engine.schedule.instances == 0


async def test_there_are_as_many_instances_as_there_is_room_for(cache: Path) -> None:
    engine = await NativeEngine.open(cache, instances=3)
    made = await program(engine, '(module (memory (export "memory") 1) (func (export "go")))')
    other = await program(engine, '(module (memory (export "memory") 1) (func (export "go") (drop (i32.const 1))))')
    instances = [await made.instantiate() for _ in range(2)]
    with pytest.raises(LimitError, match="its share of 3") as caught:
        made.instantiate()
    assert caught.value.reason == "instances"
    (await other.instantiate()).close()
    instances.pop().close()
    (await made.instantiate()).close()
    await engine.close()


async def test_every_instance_that_may_live_can_be_run(cache: Path) -> None:
    """An instance keeps the stack of its last fiber, and one more of a helper under a host function."""
    engine = await NativeEngine.open(cache)
    text = f"""(module {HOST} (memory (export "memory") 1)
      (func (export "allocate") (param i32) (result i32) (i32.const 8))
      (func (export "go") (result i32) (call $h (i32.const 0) (i32.const 0))))"""
    waits = host(lambda scope, request: asyncio.sleep(0, b""), lambda guest, answer: (guest.call("allocate", 1),))
    programs = [await program(engine, text, waits) for _ in range(8)]
    instances = []
    for made in programs:
        assert isinstance(made, NativeProgram)
        while engine.room.has_room(made):
            instances.append(await made.instantiate())
            answer = made.runner(Steps("go"))(instances[-1], b"", None, time.monotonic() + 60)
            assert (answer if isinstance(answer, bytes) else await answer) == b"8"
    assert len(instances) > engine.most_instances * 7 // 8
    await engine.close()


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


# The process


def test_faulthandler_may_be_switched_on_after_the_engine() -> None:
    """It is on before: switched on later, it would take wasmtime's signals for crashes."""
    script = """
import asyncio, faulthandler, sys, time, tempfile
from pathlib import Path
import wasmtime
from insula.wasm.machine import machine
from insula.wasm.native import Template
from insula.wasm.contract import Signature
from insula.wasm.traps import EngineError
from tests.wasm.bare import BareCell
assert not faulthandler.is_enabled()
text = '(module (memory (export "memory") 1) (func (export "go") (drop (i32.load (i32.const -16)))))'
module = wasmtime.Module(machine().engine, text)
faulthandler.enable()
cell = BareCell(Template(module, {"go": Signature()}, [], memory_bytes=1 << 20, table_elements=10))
cell.instantiate()
assert cell.poll() is not None
cell.find_exports()
try:
    cell.call("go")
except EngineError as trap:
    print(trap.code.name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "MEMORY_OUT_OF_BOUNDS\n"), done.stderr
    assert faulthandler.is_enabled()


def test_an_address_space_too_small_is_said_and_not_a_crash() -> None:
    script = """
import resource
from insula.wasm.machine import machine
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    machine()
except Exception as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ConfigurationError\n"), done.stderr
