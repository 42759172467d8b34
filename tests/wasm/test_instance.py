"""One instance: what it may hold the loop with, what it is told when it is stopped, and what is left of it at its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from insula.abi.okra import OkraAbi
from insula.errors import DeadlineError, GuestError, InsulaError, LimitError, UnavailableError
from insula.wasm.contract import Guest, GuestLimits, HostImport, Signature, UnbegunError, WasiOptions
from insula.wasm.engine import NativeEngine, NativeProgram, OwnedInstance
from insula.wasm.faults import StoppedError
from insula.wasm.instance import LiveInstance
from insula.wasm.pace import Pace
from tests.guests import digest, wat
from tests.wasm.floor import Floor, a_still_clock, floor, freed, still, until, whole
from tests.wasm.test_contract import Steps

__all__ = ["floor", "freed", "still"]  # fixtures

#: `allocate` asks the host until it answers something, `stuck` asks once and never comes back, `go` is the entry.
GUEST = """(module
  (import "t" "spin" (func $spin (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "\\08\\00\\00\\00\\05\\00\\00\\00words")
  (func (export "allocate") (param i32) (result i32) (loop (br_if 0 (i32.eqz (call $spin)))) (i32.const 8))
  (func (export "stuck") (param i32) (result i32) (drop (call $spin)) (loop (br 0)) (i32.const 8))
  (func (export "print") (result i32) (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "go") (result i32) (call $spin)))"""

ONE = Signature((), ("i32",))


class Helped(Steps):
    """Calls a helper export before the entry."""

    def __init__(self, helper: str, pace: Pace) -> None:
        super().__init__("go")
        self.helper, self.pace = helper, pace

    def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
        guest.call(self.helper, 1)
        return ()


class Desk:
    """A program of the guest; `spin` is what the host answers, `lines` what was printed."""

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self.spin: Callable[[], bytes] = lambda: b"1"
        self.lines: list[tuple[int, bytes]] = []

    async def open(self, **limits: Any) -> NativeProgram:
        path = wat(GUEST)
        offered = HostImport("t", "spin", ONE, lambda g, a: b"", lambda s, r: self.spin(), lambda g, a: (len(a),))
        wasi = WasiOptions(write=lambda fd, line: self.lines.append((fd, line)))
        made = self.engine.link(await self.engine.load(path, digest(path)), [offered], GuestLimits(**limits), wasi)
        assert isinstance(made, NativeProgram)
        return made


async def owned(program: NativeProgram) -> OwnedInstance:
    instance = await program.instantiate()
    assert isinstance(instance, OwnedInstance)
    return instance


# Helper exports


async def test_a_helper_on_the_loop_has_the_time_of_its_call(floor: Floor) -> None:
    """Which may be less than what a helper gets on the loop."""
    desk = Desk(floor.engine)
    program = await desk.open()
    instance = await owned(program)
    run = program.runner(Helped("stuck", Pace()))
    with pytest.raises(DeadlineError):
        run(instance, b"", None, time.monotonic() + 0.0005)
    assert not instance.alive


@pytest.mark.parametrize("where", ["on the loop", "in a worker"])
async def test_a_helper_holds_a_worker_but_not_the_loop(floor: Floor, where: str) -> None:
    desk, pace = Desk(floor.engine), Pace()
    program = await desk.open()
    instance, ticker = await owned(program), floor.schedule.ticker
    if where == "in a worker":
        pace.helper_overran()
    epoch = ticker.epoch
    desk.spin = lambda: b"1" if ticker.epoch > epoch + 100 else b""
    start: Callable[[], Any] = lambda: program.runner(Helped("allocate", pace))(  # noqa: E731
        instance, b"", None, time.monotonic() + 20
    )
    if where == "in a worker":
        assert await whole(start) == b"1"
    else:
        with pytest.raises(UnbegunError) as caught:
            await whole(start)
        assert caught.value.reason == "helper"
        assert pace.slow
        assert not instance.alive
        assert ticker.epoch < epoch + 100
    instance.close()


async def test_a_helper_that_overruns_after_the_answer_costs_the_instance_and_not_the_answer(floor: Floor) -> None:
    path = wat("""(module (memory (export "memory") 1)
        (func (export "allocate") (param i32) (result i32) (i32.const 64))
        (func (export "deallocate") (param i32) (loop (br 0)))
        (func (export "handle_request") (param i32 i32 i32 i32) (result i64) (i64.const 0x4000000002)))""")
    module = await floor.engine.load(path, digest(path))
    program = floor.engine.link(module, [], GuestLimits(), WasiOptions())
    instance = await owned(program)  # type: ignore[arg-type]
    exchange = OkraAbi().exchange(module.exports, "m", 0)
    call = partial(program.runner(exchange), instance, b"{}", None, time.monotonic() + 20)
    assert await whole(call) == b"{}"
    assert not instance.alive
    assert exchange.pace.slow


async def test_a_helper_under_a_host_function_has_its_time_of_the_processor(floor: Floor) -> None:
    path = wat("""(module (import "t" "h" (func $h (result i32))) (memory (export "memory") 1)
        (func (export "allocate") (param i32) (result i32) (loop (br 0)) (i32.const 8))
        (func (export "go") (result i32) (call $h)))""")
    offered = HostImport(
        "t", "h", ONE, lambda g, a: b"", lambda s, r: b"", lambda guest, answer: (guest.call("allocate", 1),)
    )
    module = await floor.engine.load(path, digest(path))
    program = floor.engine.link(module, [offered], GuestLimits(), WasiOptions())
    steps, instance = Steps("go"), await program.instantiate()
    with pytest.raises(GuestError, match="takes far too long"):
        await whole(partial(program.runner(steps), instance, b"", None, time.monotonic() + 60))
    assert steps.pace.slow


@pytest.mark.parametrize("imports", [False, True])
async def test_a_helper_that_traps_ends_its_guest(floor: Floor, imports: bool) -> None:
    """Where nothing waits it is called straight, else on a fiber."""
    path = wat(f"""(module {'(import "t" "spin" (func (result i32)))' if imports else ""} (memory (export "memory") 1)
        (func (export "bad") (param i32) (result i32) unreachable)
        (func (export "void") (param i32))
        (func (export "negative") (param i32) (result i32) (i32.const -1))
        (func (export "go") (result i32) (i32.const 1)))""")
    offered = HostImport("t", "spin", ONE, lambda g, a: b"", lambda s, r: b"", lambda g, a: (0,))
    module = await floor.engine.load(path, digest(path))
    program = floor.engine.link(module, [offered], GuestLimits(), WasiOptions())
    instance = await program.instantiate()
    assert isinstance(instance, OwnedInstance)
    assert instance.template.waits == imports
    instance.enter()
    assert (instance.call("negative", 2**64 - 1), instance.call("void", 7)) == (2**32 - 1, 0)
    with pytest.raises(GuestError, match="unreachable"):
        await whole(partial(program.runner(Helped("bad", Pace())), instance, b"", None, time.monotonic() + 20))
    assert not instance.alive


async def test_a_helper_in_a_worker_ends_with_its_instance(floor: Floor) -> None:
    desk, pace, inside = Desk(floor.engine), Pace(), threading.Event()
    program = await desk.open()
    instance = await owned(program)
    pace.helper_overran()

    def spin() -> bytes:
        inside.set()
        return b""

    desk.spin = spin
    call = program.runner(Helped("stuck", pace))(instance, b"", None, time.monotonic() + 600)
    assert not isinstance(call, bytes)
    await asyncio.to_thread(inside.wait, 10)
    instance.close()
    with pytest.raises(UnavailableError):
        await call
    assert await floor.schedule.idle(5.0)


@pytest.mark.parametrize("waits", [False, True])
async def test_a_slice_that_is_over_under_a_host_function_is_over_behind_it(
    floor: Floor, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a guest whose helpers always run when the clock ticks would hold the loop for good."""
    monkeypatch.setattr("insula.wasm.instance.INLINE_CPU", 60.0)
    path = wat("""(module (import "t" "h" (func $h (result i32))) (import "t" "spin" (func $spin (result i32)))
        (memory (export "memory") 1)
        (func (export "allocate") (param i32) (result i32) (loop (br_if 0 (i32.eqz (call $spin)))) (i32.const 8))
        (func (export "go") (result i32) (local $n i32)
          (loop (drop (call $h))
            (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3))))
          (local.get $n)))""")
    ticker, ends, inline = floor.schedule.ticker, [0], list[bool]()

    def host(scope: Any, request: bytes) -> Any:
        inline.append(cast("Any", instance).inline)
        return asyncio.sleep(0, b"") if waits else b""

    def give(guest: Guest, answer: bytes) -> tuple[int, ...]:
        ends[0] = ticker.epoch + 3
        return (guest.call("allocate", 1),)

    imports = [
        HostImport("t", "h", ONE, lambda g, a: b"", host, give),
        HostImport(
            "t",
            "spin",
            ONE,
            lambda g, a: b"",
            lambda s, r: b"1" if ticker.epoch >= ends[0] else b"",
            lambda g, a: (len(a),),
        ),
    ]
    program = floor.engine.link(await floor.engine.load(path, digest(path)), imports, GuestLimits(), WasiOptions())
    instance, pace = await program.instantiate(), Pace()
    steps = Steps("go")
    steps.pace = pace
    assert await whole(partial(program.runner(steps), instance, b"", None, time.monotonic() + 20)) == b"3"
    assert inline == [True, False, False] if not waits else not all(inline)


# A stop


async def test_a_guest_that_was_stopped_gets_no_answer_of_the_host(floor: Floor) -> None:
    """Neither one that it asks for then, nor one that it waited for, nor one of WASI."""
    desk = Desk(floor.engine)
    program = await desk.open()
    asked: list[None] = []
    desk.spin = lambda: asked.append(None) or b""  # type: ignore[func-returns-value]
    for export in ("go", "print"):
        instance = await owned(program)
        instance.enter()
        instance.stop()
        with pytest.raises(StoppedError):
            instance.launch(export, ())
        instance.left()
        instance.free()
    assert asked == []
    desk.spin = asyncio.get_running_loop().create_future  # type: ignore[assignment]
    instance = await owned(program)
    instance.enter()
    assert instance.launch("go", ()) is None
    instance.resume_with(lambda: b"1")
    instance.stop()
    with pytest.raises(StoppedError):
        instance.poll()
    instance.left()
    instance.free()


@a_still_clock
async def test_a_helper_that_takes_long_keeps_the_clock_going(floor: Floor) -> None:
    instance = await owned(await Desk(floor.engine).open())
    ticker = floor.schedule.ticker
    instance.deadline = time.monotonic() + 20
    instance.inline = False  # as in a worker, where it may
    ticker.used = False
    instance.overrun()
    assert ticker.used
    instance.close()


# Memory


async def test_reads_are_bounded_by_the_memory_and_by_the_limit(floor: Floor) -> None:
    instance = await owned(await Desk(floor.engine).open(output_bytes=100))
    assert instance.read(131072 - 100, 100) == bytes(100)
    assert len(instance.read(0, 200, 200)) == 200
    for pointer, size, limit, error in (
        (0, 101, None, LimitError),
        (0, 201, 200, LimitError),
        (0, 51, 50, LimitError),
        (131071, 2, None, GuestError),
        (131073, 0, None, GuestError),
        (-1, 1, None, GuestError),
        (1, -1, None, GuestError),
    ):
        with pytest.raises(error):
            instance.read(pointer, size, limit)
    instance.close()


async def test_a_shortage_is_a_growth_that_was_refused_in_this_very_exchange(floor: Floor) -> None:
    instance = await owned(await Desk(floor.engine).open(memory_bytes=16 << 16))
    assert instance.shortage("it failed") is None
    assert instance.call("grow", 14) == 2
    assert instance.shortage("it failed") is None, "its memory is full, and it has what it asked for"
    assert instance.call("grow", 1) == 2**32 - 1
    assert instance.call("grow", 0) == 16
    told = instance.shortage("it failed")
    assert isinstance(told, LimitError)
    assert (told.reason, told.message) == ("memory_limit", "it failed after its memory had reached the limit")
    instance.leased = True
    told = instance.shortage("it failed")
    assert isinstance(told, LimitError)
    assert told.reason == floor.engine.guest_memory.refusal().reason != "memory_limit"
    assert instance.first_call("grow", 0) == 16
    assert instance.shortage("it failed") is None, "that was an exchange before"
    assert instance.launch("grow", (1,)) == 2**32 - 1
    assert instance.shortage("it failed") is not None
    assert instance.launch("grow", (0,)) == 16
    assert instance.shortage("it failed") is None
    instance.close()
    assert instance.shortage("it failed") is None


async def test_memory_that_was_leased_is_counted_once_when_the_guest_has_taken_it(floor: Floor) -> None:
    memory = floor.engine.guest_memory
    instance = await owned(await Desk(floor.engine).open(memory_bytes=16 << 16))
    held = memory.held
    instance.lease()
    leased = memory.leased
    assert leased == 14 << 16
    assert instance.call("grow", 10) == 2
    instance.weigh()  # while it is still being run
    assert (memory.held - held, memory.leased) == (10 << 16, leased - (10 << 16))
    instance.settle()
    assert (memory.held - held, memory.leased) == (10 << 16, 0)
    instance.close()


# The end


async def test_what_a_guest_printed_last_is_written_and_nothing_is_kept(floor: Floor) -> None:
    desk = Desk(floor.engine)
    program = await desk.open()
    instance = await owned(program)
    steps = Steps("print")
    answer = program.runner(steps)(instance, b"", "the scope", time.monotonic() + 20)
    assert (answer if isinstance(answer, bytes) else await answer) == b"0"
    assert desk.lines == []
    instance.close()
    assert desk.lines == [(1, b"words")]
    assert instance.scope is None
    assert instance.size() == 0
    with pytest.raises(GuestError, match="outside"):
        instance.read(0, 1)
    with pytest.raises(GuestError, match="outside"):
        instance.write(0, b"1")


async def test_output_that_cannot_be_written_does_not_keep_an_instance(
    floor: Floor, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(list[tuple[int, bytes]]):
        def append(self, _: tuple[int, bytes]) -> None:
            raise OSError("the disk is full")

    desk = Desk(floor.engine)
    desk.lines = Full()
    program = await desk.open()
    instance = await owned(program)
    await whole(lambda: program.runner(Steps("print"))(instance, b"", None, time.monotonic() + 20))
    instance.close()
    assert floor.schedule.instances == 0
    assert "could not be written" in caplog.text


def _given(what: tuple[int, ...], guest: Guest, answer: bytes) -> tuple[int, ...]:
    return what


async def test_the_results_of_a_host_function_are_as_many_as_it_says(floor: Floor) -> None:
    path = wat("""(module (import "t" "spin" (func $spin (result i32))) (memory (export "memory") 1)
                    (func (export "go") (result i32) (call $spin)))""")
    module = await floor.engine.load(path, digest(path))
    for give in ((), (1, 2)):
        offered = HostImport("t", "spin", ONE, lambda g, a: b"", lambda s, r: b"", partial(_given, give))
        program = floor.engine.link(module, [offered], GuestLimits(), WasiOptions())
        instance = await program.instantiate()
        with pytest.raises(InsulaError, match="inside the server"):
            await whole(partial(program.runner(Steps("go")), instance, b"", None, time.monotonic() + 20))


# The short way of the one call


#: A guest with the one call: by its number it answers its input, asks the host, spins until the host answers, traps, takes
#: memory and traps without it, or calls nobody and never ends.
ONE_CALL = """(module
  (import "t" "ask" (func $ask (result i32)))
  (import "t" "spin" (func $spin (result i32)))
  (memory (export "memory") 2)
  (func (export "allocate") (param i32) (result i32) (i32.const 8))
  (func (export "deallocate") (param i32))
  (func (export "handle_request") (param i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "insula_input") (param i32) (result i32) (i32.const 1024))
  (func (export "insula_call") (param $number i32) (param $size i32) (result i64)
    (if (i32.eq (local.get $number) (i32.const 1)) (then (drop (call $ask))))
    (if (i32.eq (local.get $number) (i32.const 2)) (then (loop (br_if 0 (i32.eqz (call $spin))))))
    (if (i32.eq (local.get $number) (i32.const 3)) (then unreachable))
    (if (i32.eq (local.get $number) (i32.const 4)) (then
      (if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then unreachable))))
    (if (i32.eq (local.get $number) (i32.const 5)) (then (loop (br 0))))
    (i64.or (i64.shl (i64.const 1024) (i64.const 32)) (i64.extend_i32_u (local.get $size)))))"""


async def one_call(floor: Floor, engine: NativeEngine) -> Callable[..., bytes | asyncio.Future[bytes]]:
    """Calls of one instance, each by its number, that has gone the long way once."""
    path = wat(ONE_CALL)
    module = await engine.load(path, digest(path))
    imports = [
        HostImport("t", "ask", ONE, lambda g, a: b"", floor._ask, lambda g, a: (len(a),)),
        HostImport("t", "spin", ONE, lambda g, a: b"", floor._spin, lambda g, a: (len(a),)),
    ]
    program = engine.link(module, imports, GuestLimits(memory_bytes=32 << 20), WasiOptions())
    instance = await program.instantiate()
    runners = [program.runner(OkraAbi().exchange(module.exports, "m", number)) for number in range(6)]

    def call(number: int, *, within: float = 20.0) -> bytes | asyncio.Future[bytes]:
        return runners[number](instance, b"[1]", None, time.monotonic() + within)

    assert await whole(partial(call, 0)) == b"[1]"
    assert instance.room >= 3
    return call


async def test_what_goes_the_short_way_may_wait_and_take_its_time(floor: Floor) -> None:
    call = await one_call(floor, floor.engine)
    floor.answer = lambda: asyncio.sleep(0, b"")
    assert await whole(partial(call, 1)) == b"[1]"
    spinning = call(2)
    assert not isinstance(spinning, bytes)
    floor.go.set()
    assert await spinning == b"[1]"
    assert await whole(partial(call, 0)) == b"[1]"
    with pytest.raises(DeadlineError):
        await whole(partial(call, 5, within=0.1))


async def test_what_goes_the_short_way_may_trap(floor: Floor, freed: list[tuple[LiveInstance, str]]) -> None:
    call = await one_call(floor, floor.engine)
    with pytest.raises(GuestError, match="unreachable"):
        await whole(partial(call, 3))
    assert len(freed) == 1
    with pytest.raises(InsulaError, match="was ended"):
        call(0)


async def test_what_goes_the_short_way_and_takes_memory_that_is_not_there(cache: Path) -> None:
    engine = await NativeEngine.open(cache, guest_memory=1 << 20)
    call = await one_call(Floor(engine), engine)
    with pytest.raises(LimitError, match="guests of this server") as caught:
        await whole(partial(call, 4))
    assert caught.value.reason == "guest_memory"
    await until(lambda: not engine.guest_memory.held)
    await engine.close()


@pytest.mark.parametrize("before", ["nothing", "an entry", "an entry that took longer", "the short way"])
async def test_a_helper_never_yields_whatever_ran_before_it(floor: Floor, before: str) -> None:
    """In a module without imports a helper that yielded would end the process."""
    path = wat("""(module (memory (export "memory") 2)
        (func (export "stuck") (param i32) (result i32) (loop (br 0)) (i32.const 8))
        (func (export "go") (result i32) (i32.const 1))
        (func (export "long") (result i32) (local $n i32)
          (loop (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100000000))))
          (i32.const 1))
        (func (export "short") (param i32 i32) (result i64) (i64.const 0x100000001)))""")
    module = await floor.engine.load(path, digest(path))
    program = floor.engine.link(module, [], GuestLimits(), WasiOptions())
    instance = await program.instantiate()
    assert isinstance(instance, OwnedInstance)
    match before:
        case "an entry":
            assert instance.launch("go", ()) == 1
        case "an entry that took longer":
            floor.schedule.tick()
            given = instance.launch("long", ())
            while given is None:
                given = instance.poll()
            assert given == 1
        case "the short way":
            instance.room_at, instance.room = 8, 8
            assert instance.swap("short", 0, b"1") == b"\0"
    with pytest.raises(UnbegunError):
        await whole(partial(program.runner(Helped("stuck", Pace())), instance, b"", None, time.monotonic() + 20))
