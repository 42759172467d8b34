"""A helper export that makes room for the answer of a host function, on a fiber upon the guest's: it may take its time."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest

from insula.errors import DeadlineError, GuestError, UnavailableError
from insula.wasm.contract import Guest as AbiGuest
from insula.wasm.contract import GuestLimits, HostImport, Signature, WasiOptions
from insula.wasm.engine import OwnedInstance
from insula.wasm.instance import LiveInstance
from tests.guests import digest, wat
from tests.wasm.floor import Floor, a_still_clock, floor, freed, still, until, whole
from tests.wasm.test_contract import Steps

__all__ = ["floor", "freed", "still"]  # fixtures

#: `go` asks the host and gives the pointer of the answer; `allocate` spins until the host lets it, after it asked it.
GUEST = """(module (import "t" "ask" (func $ask (result i32))) (import "t" "spin" (func $spin (result i32)))
  (import "t" "again" (func $again (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (memory (export "memory") 1)
  (func (export "allocate") (param $size i32) (result i32)
    (if (i32.eq (local.get $size) (i32.const 13)) (then unreachable))
    (if (i32.eq (local.get $size) (i32.const 14)) (then (return (call $again))))
    (loop (br_if 0 (i32.eqz (call $spin))))
    (i32.add (i32.const 1000) (local.get $size)))
  (func (export "go") (result i32) (drop (call $yield)) (i32.add (call $ask) (i32.const 0))))"""

ONE = Signature((), ("i32",))


class Desk:
    """A program of the guest. `answer` is what `ask` gives, `spins` in which threads the helper spun."""

    def __init__(self, floor: Floor) -> None:
        self.floor = floor
        self.answer: Any = lambda: b"12345"
        self.again: Any = lambda: b"123"
        self.go = threading.Event()
        self.spins: Counter[str] = Counter()
        self.written: list[bytes] = []

    async def call(self, **limits: Any) -> tuple[OwnedInstance, Any]:
        path = wat(GUEST)
        imports = [
            HostImport("t", "ask", ONE, _nothing, lambda s, r: self.answer(), _never, ("allocate", self._write)),
            HostImport("t", "again", ONE, _nothing, lambda s, r: self.again(), _size, ("allocate", self._write)),
            HostImport("t", "spin", ONE, _nothing, self._spin, _size),
        ]
        module = await self.floor.engine.load(path, digest(path))
        program = self.floor.engine.link(module, imports, GuestLimits(**limits), WasiOptions())
        instance = await program.instantiate()
        assert isinstance(instance, OwnedInstance)
        steps = Steps("go")
        return instance, lambda within=20.0: program.runner(steps)(instance, b"", None, time.monotonic() + within)

    def _spin(self, scope: Any, request: bytes) -> bytes:
        self.spins[threading.current_thread().name] += 1
        return b"1" if self.go.is_set() else b""

    def _write(self, guest: AbiGuest, answer: bytes, pointer: int) -> tuple[int, ...]:
        guest.write(pointer, answer)
        self.written.append(guest.read(pointer, len(answer)))
        return (pointer,)

    @property
    def in_worker(self) -> bool:
        return any(name.startswith("insula-guest") for name in self.spins)


def _nothing(guest: AbiGuest, args: tuple[int, ...]) -> bytes:
    return b""


def _size(guest: AbiGuest, answer: bytes) -> tuple[int, ...]:
    return (len(answer),)


def _never(guest: AbiGuest, answer: bytes) -> tuple[int, ...]:
    raise AssertionError("the place is made")


async def later() -> bytes:
    await asyncio.sleep(0)
    return b"12345"


ways = pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])


@a_still_clock
@ways
async def test_a_quick_helper_is_done_at_once(floor: Floor, waits: bool) -> None:
    desk = Desk(floor)
    desk.go.set()
    desk.answer = later if waits else (lambda: b"12345")
    _, call = await desk.call()
    answer = call()
    assert isinstance(answer, bytes) is not waits
    assert (answer if isinstance(answer, bytes) else await answer) == b"1005"
    assert desk.written == [b"12345"]


@ways
async def test_a_helper_that_takes_longer_than_a_slice_goes_on_in_a_worker(floor: Floor, waits: bool) -> None:
    desk = Desk(floor)
    desk.answer = later if waits else (lambda: b"12345")
    instance, call = await desk.call()
    answer = call()
    await until(lambda: desk.in_worker)
    desk.go.set()
    assert await answer == b"1005"
    assert desk.written == [b"12345"]
    assert instance.alive
    assert await whole(call) == b"1005"


@ways
@pytest.mark.parametrize("end", ["deadline", "cancel", "close"])
async def test_a_helper_that_never_ends_is_ended_with_its_call(
    floor: Floor, freed: list[tuple[LiveInstance, str]], waits: bool, end: str
) -> None:
    desk = Desk(floor)
    desk.answer = later if waits else (lambda: b"12345")
    instance, call = await desk.call()
    answer = call(0.2 if end == "deadline" else 60.0)
    await until(lambda: desk.in_worker)
    match end:
        case "cancel":
            answer.cancel()
        case "close":
            instance.close()
    with pytest.raises({"deadline": DeadlineError, "close": UnavailableError}.get(end, asyncio.CancelledError)):
        await answer
    assert await floor.schedule.idle(10.0)
    await until(lambda: freed)
    assert [one for one, _ in freed] == [instance]
    assert desk.written == []


@ways
async def test_a_helper_that_traps_ends_its_guest(floor: Floor, waits: bool) -> None:
    desk = Desk(floor)
    desk.answer = (lambda: asyncio.sleep(0, bytes(13))) if waits else (lambda: bytes(13))
    instance, call = await desk.call()
    with pytest.raises(GuestError, match="unreachable"):
        await whole(call)
    assert not instance.alive


@ways
async def test_a_helper_may_call_the_host_and_may_not_wait_for_it(floor: Floor, waits: bool) -> None:
    desk = Desk(floor)
    desk.go.set()
    desk.answer = (lambda: asyncio.sleep(0, bytes(14))) if waits else (lambda: bytes(14))
    _, call = await desk.call()
    assert await whole(call) == b"3"  # and there the answer is given the other way
    desk.again = later
    with pytest.raises(GuestError, match="has to wait"):
        await whole(call)


async def test_helpers_that_are_ended_at_any_moment_leave_nothing(floor: Floor) -> None:
    """A hundred calls, each given up after some milliseconds: suspended in the helper, in a worker, at rest."""
    chance, desk = random.Random(1), Desk(floor)
    desk.answer = lambda: later() if chance.random() < 0.5 else b"12345"

    async def one() -> None:
        instance, call = await desk.call()
        answer = call(60.0)
        if not isinstance(answer, bytes):
            await asyncio.wait([answer], timeout=chance.random() / 50)
            answer.cancel()
        instance.close()

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(10)))
    assert await floor.schedule.idle(10.0)
    desk.go.set()
    _, call = await desk.call()
    assert await whole(partial(call)) == b"1005"


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
async def test_a_slice_that_ends_in_a_helper_ends_the_turn(floor: Floor, waits: bool) -> None:
    """A guest whose host calls end each slice in its `allocate` would else hold the loop for good."""
    ticker, epochs = floor.schedule.ticker, list[int]()
    path = wat("""(module (import "t" "ask" (func $ask (result i32))) (memory (export "memory") 1)
        (func (export "allocate") (param i32) (result i32) (i32.const 1000))
        (func (export "go") (result i32) (local $n i32)
          (loop (drop (call $ask))
            (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 50))))
          (local.get $n)))""")

    def host(scope: Any, request: bytes) -> Any:
        over = ticker.epoch + 3
        while ticker.epoch < over:
            pass
        if threading.current_thread() is threading.main_thread():
            epochs.append(ticker.epoch)
        return later() if waits else b"12345"

    offered = HostImport("t", "ask", ONE, _nothing, host, _never, ("allocate", lambda g, a, pointer: (pointer,)))
    module = await floor.engine.load(path, digest(path))
    program = floor.engine.link(module, [offered], GuestLimits(), WasiOptions())
    instance, steps = await program.instantiate(), Steps("go")
    answer = program.runner(steps)(instance, b"", None, time.monotonic() + 60)
    in_first_turn = len(epochs)
    assert not isinstance(answer, bytes)
    assert await answer == b"50"
    assert in_first_turn <= 2


async def test_a_helper_under_a_host_function_keeps_no_other_worker_from_its_own(floor: Floor) -> None:
    """Of the workers one at a time runs host functions; a guest that loops under one is no host function."""
    path = wat("""(module (import "t" "ask" (func $ask (result i32))) (memory (export "memory") 1)
        (func (export "allocate") (param i32) (result i32) (loop (br 0)) (i32.const 1000))
        (func (export "go") (result i32) (call $ask)))""")
    entered = threading.Event()

    def host(scope: Any, request: bytes) -> bytes:
        entered.set()
        return b"12345"

    looping = HostImport("t", "ask", ONE, _nothing, host, lambda guest, answer: (guest.call("allocate", 5),))
    module = await floor.engine.load(path, digest(path))
    program = floor.engine.link(module, [looping], GuestLimits(), WasiOptions())
    steps, instance = Steps("go"), await program.instantiate()
    steps.pace.keep_slow()
    endless = program.runner(steps)(instance, b"", None, time.monotonic() + 600)
    assert not isinstance(endless, bytes)
    await asyncio.to_thread(entered.wait, 10)
    desk = Desk(floor)
    desk.go.set()
    other, call = await desk.call(memory_bytes=65 << 20)  # in a worker too
    assert await asyncio.wait_for(call(), 10) == b"1005"
    instance.close()
    other.close()
    with pytest.raises(UnavailableError):
        await endless
    assert await floor.schedule.idle(10.0)
