"""Guests that mean harm, over every engine: each gets its error, and the next one its answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from insula.errors import DeadlineError, GuestError, InsulaError, LimitError
from insula.wasm import faults
from insula.wasm.contract import Engine, Guest, GuestLimits, HostImport, Signature, UnbegunError, WasiOptions
from tests.guests import digest, wat
from tests.wasm.rig import Rig
from tests.wasm.test_contract import Steps, run, well

EDGES = [65536, 65535, 2**31 - 1, 2**31, 2**32 - 1]
LENGTHS = [2, 2**31, 2**32 - 1]


@pytest.mark.parametrize("direction", ["take", "give", "begin", "finish"])
async def test_pointers_out_of_bounds_in_every_direction(engine: Engine, direction: str) -> None:
    """A module of one page: all that is named lies across its end, or beyond."""
    path = wat(
        """(module (import "t" "h" (func $h (param i32 i32) (result i32))) (memory (export "memory") 1)
             (func (export "go") (param i32 i32) (result i32) (call $h (local.get 0) (local.get 1))))"""
    )
    module = await engine.load(path, digest(path))
    pointer, size = 0, 0

    def reach(guest: Guest) -> None:
        if direction == "begin" or (direction == "give" and size < 2**20):
            guest.write(pointer, b"x" * min(size, 2**20))
        else:
            guest.read(pointer, size)

    class Reach(Steps):
        def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
            if direction == "begin":
                reach(guest)
            return (pointer, size)

        def finish(self, guest: Guest, args: tuple[int, ...], result: int) -> bytes:
            if direction == "finish":
                reach(guest)
            return b"reached the end"

    def take(guest: Guest, args: tuple[int, ...]) -> bytes:
        return guest.read(*args) if direction == "take" else b""

    def give(guest: Guest, answer: bytes) -> tuple[int, ...]:
        if direction == "give":
            reach(guest)
        return (0,)

    offered = HostImport("t", "h", Signature(("i32", "i32"), ("i32",)), take, lambda scope, request: b"", give)
    program = engine.link(module, [offered], GuestLimits(), WasiOptions())
    for pointer in EDGES:  # noqa: B007
        for size in LENGTHS:  # noqa: B007
            with pytest.raises((GuestError, LimitError)):
                await run(program, Reach("go"))
    pointer, size = 65534, 2
    assert await run(program, Reach("go")) == b"reached the end"


async def test_memory_that_grows_between_two_reads_of_the_host(engine: Engine) -> None:
    path = wat(
        """(module (import "t" "h" (func $h (param i32 i32) (result i32))) (memory (export "memory") 1)
             (func (export "allocate") (param i32) (result i32)
               (i32.mul (memory.grow (i32.const 1)) (i32.const 65536)))
             (func (export "go") (result i32) (call $h (i32.const 0) (i32.const 8))))"""
    )
    module = await engine.load(path, digest(path))

    def give(guest: Guest, answer: bytes) -> tuple[int, ...]:
        before = guest.read(65528, 8)
        fresh = guest.call("allocate", 1)
        guest.write(fresh + 65528, b"the last")
        assert guest.read(fresh + 65528, 8) == b"the last"
        assert guest.read(65528, 8) == before
        with pytest.raises(GuestError):
            guest.read(fresh + 65529, 8)
        return (fresh,)

    offered = HostImport("t", "h", Signature(("i32", "i32"), ("i32",)), lambda g, a: g.read(*a), lambda s, r: r, give)
    assert await run(engine.link(module, [offered], GuestLimits(), WasiOptions()), Steps("go")) == b"65536"


async def test_a_sleep_in_a_host_call_ends_with_the_deadline(rig: Rig) -> None:
    async def sleep() -> bytes:
        await asyncio.sleep(60)
        return b""

    rig.answer = lambda scope, request: sleep()
    with pytest.raises(DeadlineError):
        await rig.call("host", b"1", within=0.1)
    rig.answer = lambda scope, request: request
    await well(rig)


async def test_a_trap_at_every_call_does_not_fill_the_log(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_warnings", faults._Warnings(3))
    with caplog.at_level(logging.WARNING, "insula.wasm"):
        for _ in range(20):
            with pytest.raises(GuestError):
                await rig.call("trap")
    assert len([record for record in caplog.records if "unreachable" in record.message]) == 3
    await well(rig)


def test_warnings_left_out_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    at = 1000.0
    warnings = faults._Warnings(2, lambda: at)
    assert [warnings.allowed() for _ in range(5)] == [True, True, False, False, False]
    at += 61
    with caplog.at_level(logging.WARNING, "insula.wasm"):
        assert warnings.allowed()
    assert "3 more traps" in caplog.text


RANDOM = f"""(module (import "wasi_snapshot_preview1" "random_get" (func $r (param i32 i32) (result i32)))
  (memory (export "memory") 801)
  (func (export "allocate") (param i32) (result i32) (call $r (i32.const 0) (local.get 0)))
  (func (export "many") (result i32) (call $r (i32.const 8) (i32.const {50 << 20})))
  (func (export "beyond") (result i32) (call $r (i32.const 8) (i32.const {51 << 20})))
  (func (export "for_ever") (result i32) (loop (drop (call $r (i32.const 8) (i32.const {50 << 20}))) (br 0))
    (i32.const 0)))"""


async def test_random_bytes_have_no_limit_but_the_memory_and_the_deadline(engine: Engine) -> None:
    path = wat(RANDOM)
    program = engine.link(await engine.load(path, digest(path)), [], GuestLimits(memory_bytes=64 << 20), WasiOptions())

    class Many(Steps):
        def finish(self, guest: Guest, args: tuple[int, ...], result: int) -> bytes:
            places = (8, 1 << 20, 25 << 20, (50 << 20) - 24)
            return b"%d %d" % (result, sum(guest.read(at, 32) != bytes(32) for at in places))

    assert await run(program, Many("many")) == b"0 4"
    assert await run(program, Many("beyond")) == b"21 0"
    with pytest.raises(DeadlineError):
        await run(program, Many("for_ever"), within=0.3)


async def test_random_bytes_in_a_helper_export_end_with_the_deadline(engine: Engine) -> None:
    path = wat(RANDOM)
    program = engine.link(await engine.load(path, digest(path)), [], GuestLimits(memory_bytes=64 << 20), WasiOptions())

    class Helped(Steps):
        def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
            for _ in range(times):
                assert guest.call("allocate", 2 << 20) == 0
            return ()

    times, steps = 1, Helped("many")
    try:
        answer = await run(program, steps)
    except UnbegunError:  # it took too long for the event loop: the next one begins in a worker
        answer = await run(program, steps)
    assert answer == b"0"
    times = 10_000
    with pytest.raises(InsulaError):
        await run(program, steps, within=0.3)


async def test_everything_at_once(rig: Rig) -> None:
    """Thirty guests of ten kinds, and ten that behave among them."""

    async def one(method: str, payload: bytes, within: float) -> str:
        try:
            await rig.call(method, payload, within=within)
        except InsulaError as error:
            return type(error).__name__
        return "answered"

    kinds: list[tuple[str, bytes, str]] = [
        ("loop", b"", "DeadlineError"),
        ("trap", b"", "GuestError"),
        ("overflow", b"1", "GuestError"),
        ("exit", b"1", "GuestError"),
        ("wild", b"", "GuestError"),
        ("hugelen", b"", "OutOfBoundsError"),
        ("sleep", b"60000", "DeadlineError"),
        ("host_often", b"", "DeadlineError"),
        ("bomb", b"", "LimitError"),
        ("echo", b"[1]", "answered"),
    ]
    work: list[Any] = []
    for method, payload, _ in kinds * 3:
        endless = method in ("loop", "sleep", "host_often")
        work.append(one(method, payload, 0.3 if endless else 20.0))
    assert await asyncio.gather(*work) == [right for _, _, right in kinds] * 3
    await well(rig)
