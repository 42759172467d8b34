"""Each way of a call that is answered: at once, after it waited, in a worker, and what the clock has to do with it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from insula.errors import Code, DeadlineError, InsulaError, UnavailableError
from insula.wasm.contract import GuestLimits, RefusalError, WasiOptions
from insula.wasm.machine import machine
from insula.wasm.pace import FEW, QUICK
from insula.wasm.ticker import _PATIENCE
from insula.wasm.workers import Account
from tests.guests import digest, wat
from tests.wasm.floor import Floor, Guest, Watched, a_still_clock, floor, freed, one_thread, still, until, whole
from tests.wasm.test_contract import Steps

__all__ = ["floor", "freed", "still"]  # fixtures


# The ways of a call that is answered


@a_still_clock
async def test_once_guests_have_used_a_turn_calls_wait_for_the_next(floor: Floor) -> None:
    guest, other = await Guest.of(await floor.program()), await Guest.of(await floor.program())
    threads: list[bool] = []
    floor.on_spin = lambda scope: threads.append(threading.current_thread() is threading.main_thread())
    floor.go.set()
    floor.schedule.turn.add(Account(), 1.0)
    first, second = guest.later("spin"), other.later("one")
    assert (floor.workers.busy, floor.schedule.running, threads) == (0, 2, [])
    assert (await first, await second) == (b"2", b"1")
    assert threads == [True]
    assert guest.instance.job is None
    assert await whole(lambda: guest.start("one")) == b"1"


@a_still_clock
async def test_a_guest_that_wakes_in_a_used_turn_waits_for_the_next(floor: Floor) -> None:
    guest = await Guest.of(await floor.program())
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: gate
    floor.go.set()
    call = guest.later("ask_and_spin")
    turn = floor.schedule.turn
    await asyncio.sleep(0)  # the turn of the call's first part
    turn.full, turn._armed, turn._spent = True, True, 1.0  # and no turn comes
    gate.set_result(b"")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not floor.spun
    turn._armed = False
    turn._arm()
    assert await call == b"3"


async def test_the_callers_of_one_program_delay_themselves_and_no_other(floor: Floor) -> None:
    """Forty calls of a millisecond each are on their way when another program is called."""
    greedy = await floor.program()
    guests, modest = [await Guest.of(greedy) for _ in range(40)], await Guest.of(await floor.program())
    busy: Callable[[], float] = time.monotonic

    def on_spin(scope: Any) -> None:
        end = busy() + 0.001
        while busy() < end:
            pass

    floor.on_spin = on_spin
    floor.go.set()
    done: list[str] = []
    calls = [guest.start("spin", pace=Watched()) for guest in guests]
    waiting = [call for call in calls if not isinstance(call, bytes)]
    assert waiting, "a turn has room for one or two of them"
    for call in waiting:
        call.add_done_callback(lambda _: done.append("greedy"))
    answer = modest.start("one")
    done.append("modest")
    await asyncio.gather(*waiting)
    assert (await answer if not isinstance(answer, bytes) else answer) == b"1"
    assert done.index("modest") <= 3


@a_still_clock
async def test_a_program_that_may_have_much_memory_never_runs_on_the_loop(floor: Floor) -> None:
    """One instruction may fill all of it, and cannot be interrupted."""
    modest, large = await floor.program(memory_bytes=64 << 20), await floor.program(memory_bytes=65 << 20)
    assert (await Guest.of(modest)).start("one") == b"1"
    guest = await Guest.of(large)
    call = guest.later("one")
    assert floor.workers.busy == 1
    assert await call == b"1"


async def test_a_program_with_a_slow_method_begins_its_others_in_workers(floor: Floor) -> None:
    """Else one with a thousand methods could hold the loop a thousand times."""
    program = await floor.program()
    guest, other = await Guest.of(program), await Guest.of(await floor.program())
    known, slow = Watched(), Watched()
    assert await whole(lambda: guest.start("one", pace=known)) == b"1"
    guest.program.runner(_steps("one", slow))
    slow.helper_overran()
    assert await guest.later("one", pace=known) == b"1"
    assert known.said[-1] == "took in worker"
    new = Watched()
    run = program.runner(_steps("one", new))
    for _ in range(FEW):
        answer = run(guest.instance, b"", None, time.monotonic() + 20)
        assert not isinstance(answer, bytes)
        assert await answer == b"1"
    assert new.said[:FEW] == ["took in worker"] * FEW
    assert not new.slow
    untouched = Watched()
    assert await whole(lambda: other.start("one", pace=untouched)) == b"1"
    assert "took in worker" not in untouched.said


def _steps(export: str, pace: Watched) -> Steps:
    steps = Steps(export)
    steps.pace = pace
    return steps


async def test_a_start_runs_in_a_worker(floor: Floor) -> None:
    path = wat("""(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "\\08\\00\\00\\00\\01\\00\\00\\00\\0a")
        (func (export "_initialize") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))""")
    threads: list[str] = []
    wasi = WasiOptions(write=lambda fd, line: threads.append(threading.current_thread().name))
    program = floor.engine.link(await floor.engine.load(path, digest(path)), [], GuestLimits(), wasi)
    (await program.instantiate()).close()
    assert threads[0].startswith("insula-guest")


# A deadline decides


@a_still_clock
@pytest.mark.parametrize("way", ["at once", "after a wait", "in a worker", "refused"])
async def test_an_answer_that_comes_after_the_deadline_is_none(floor: Floor, way: str) -> None:
    """Whatever the timers do: here the loop comes to none of them in between."""
    guest = await Guest.of(await floor.program())
    deadline = 0.0

    def on_spin(scope: Any) -> None:
        while time.monotonic() <= deadline:
            pass

    class Refusing(Steps):
        def finish(self, guest: Any, args: tuple[int, ...], result: int) -> bytes:
            raise RefusalError("no such order", code=Code.NOT_FOUND)

    floor.on_spin = on_spin
    floor.go.set()
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: gate
    deadline = time.monotonic() + 0.05
    steps = (Refusing if way == "refused" else Steps)("ask_and_spin" if way == "after a wait" else "spin")
    steps.pace = Watched(slow=way == "in a worker")
    gate.set_result(b"")
    with pytest.raises(DeadlineError):
        await whole(lambda: guest.program.runner(steps)(guest.instance, b"", None, deadline))
    if way != "in a worker":
        assert guest.instance.alive, "the guest has answered, and is well"
        assert await whole(lambda: guest.start("one")) == b"1"


@a_still_clock
async def test_a_guest_whose_wait_ends_with_the_deadline_is_not_resumed(floor: Floor) -> None:
    guest = await Guest.of(await floor.program())
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: gate
    floor.go.set()
    deadline = time.monotonic() + 0.02
    call = guest.later("ask_and_spin", within=0.02)
    while time.monotonic() <= deadline + 0.001:
        pass
    gate.set_result(b"")
    with pytest.raises(DeadlineError):
        await call
    assert not floor.spun
    assert not guest.instance.alive


@a_still_clock
async def test_a_nap_is_never_shorter_than_it_was_asked_to_be(floor: Floor) -> None:
    guest = await Guest.of(await floor.program())
    floor.go.set()
    for _ in range(30):
        began = time.monotonic()
        assert await whole(lambda: guest.start("nap_and_spin")) == b"4"
        assert time.monotonic() - began >= 0.001


# Who runs what


@a_still_clock
async def test_what_is_done_at_once_is_no_job(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    assert guest.start("one", pace=pace) == b"1"
    assert guest.instance.job is None
    assert floor.schedule.quiet
    assert "took" not in pace.said  # nothing is measured of a method that is not watched
    pace.watch()
    assert await whole(lambda: guest.start("one", pace=pace)) == b"1"
    assert pace.said[-1] == "took"
    assert not pace.slow


@a_still_clock
@pytest.mark.parametrize("kind", ["coroutine", "task", "future", "awaitable"])
async def test_what_waits_for_the_host_takes_no_thread(floor: Floor, kind: str) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Odd:
        def __await__(self) -> Any:
            return gate.__await__()

    async def waits() -> bytes:
        return await gate

    floor.answer = {
        "coroutine": waits,
        "task": lambda: asyncio.ensure_future(waits()),
        "future": lambda: gate,
        "awaitable": Odd,
    }[kind]
    mine = SimpleNamespace(host_calls=0)
    call = guest.later("ask", pace=pace, scope=mine)
    assert (floor.schedule.running, len(floor.schedule.tasks), floor.workers.busy) == (1, 1, 0)
    assert not floor.schedule.quiet
    assert guest.instance.inline
    with pytest.raises(InsulaError, match="in use"):
        guest.start("one")
    gate.set_result(b"123")
    assert await call == b"3"
    assert floor.schedule.quiet
    assert floor.scopes == [mine]
    assert "missed" not in pace.said
    assert await whole(lambda: guest.start("one")) == b"1"


async def test_what_takes_longer_than_its_slice_goes_on_in_a_worker(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    inline: list[tuple[bool, bool]] = []
    floor.on_spin = lambda _: inline.append(
        (threading.current_thread() is threading.main_thread(), guest.instance.inline)
    )
    call = guest.later("spin", pace=pace)
    assert floor.workers.busy == 1
    await until(lambda: floor.in_workers > 100)
    floor.go.set()
    assert await call == b"2"
    assert set(inline) == {(True, True), (False, False)}
    assert guest.instance.inline
    assert (pace.said[0], pace.said.count("missed"), pace.said[-1]) == ("missed", 1, "took")
    assert floor.schedule.quiet
    assert floor.workers.busy == 0
    assert await whole(lambda: guest.start("one")) == b"1"


async def test_what_waits_after_a_worker_ran_it_comes_back_to_the_loop(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: gate
    call = guest.later("both", pace=pace)
    await until(lambda: floor.in_workers > 100)
    floor.go.set()
    await until(lambda: floor.schedule.tasks)
    assert floor.workers.busy == 0
    assert guest.instance.inline
    gate.set_result(b"")
    assert await call == b"0"
    assert "missed" in pace.said


async def test_what_wakes_and_takes_longer_goes_to_a_worker(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    floor.answer = lambda: asyncio.sleep(0, b"")
    call = guest.later("ask_and_spin", pace=pace)
    await until(lambda: floor.in_workers > 100)
    assert "missed" in pace.said
    floor.go.set()
    assert await call == b"3"


@a_still_clock
@pytest.mark.parametrize("export", ["one", "ask"])
async def test_a_slow_method_begins_in_a_worker(floor: Floor, export: str) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched(slow=True)
    floor.answer = lambda: asyncio.sleep(0, b"")
    call = guest.later(export, pace=pace)
    assert floor.workers.busy == 1
    await call
    assert set(pace.said) == {"took in worker"}  # after a wait too
    assert len(pace.said) == (2 if export == "ask" else 1)
    assert guest.instance.inline


async def test_a_slow_method_that_takes_longer_than_its_slice_again(floor: Floor) -> None:
    """Wherever in a worker's turn it ends."""
    guest, pace, ticker = await Guest.of(await floor.program()), Watched(slow=True), floor.schedule.ticker
    ends: list[int] = []

    def on_spin(scope: Any) -> None:
        if len(ends) == 2:
            floor.go.set()
        elif not ends or ticker.epoch >= ends[0]:  # once more after that: the guest has to see that its slice is over
            ends.append(ticker.epoch + epochs)

    floor.on_spin = on_spin
    for epochs in range(6, 22):  # noqa: B007 - `on_spin` reads it
        floor.go.clear()
        ends.clear()
        assert await guest.later("spin", pace=pace) == b"2"
    assert floor.in_workers == floor.spun.total()
    assert pace.said == ["took in worker"] * 16
    assert min(pace.spent) > QUICK


@a_still_clock
async def test_a_guest_of_a_method_that_became_slow_wakes_in_a_worker(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: gate
    call = guest.later("ask_and_spin", pace=pace)
    pace.helper_overran()
    gate.set_result(b"")
    await until(lambda: floor.in_workers > 10)
    assert all(name.startswith("insula-guest") for name in floor.spun)
    floor.go.set()
    assert await call == b"3"
    assert pace.said[-1] == "took in worker"


@a_still_clock
async def test_the_processors_time_is_counted_from_when_a_watched_method_wakes(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    pace.watch()
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: gate
    call = guest.later("ask", pace=pace)
    began = pace.began
    assert began > 0.0
    while time.thread_time() <= began:
        pass
    gate.set_result(b"")
    await call
    assert pace.began > began


@pytest.mark.parametrize("watched", [False, True])
async def test_a_slice_that_was_missed_counts_by_the_processors_time(floor: Floor, watched: bool) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    if watched:
        pace.watch()
    call = guest.later("spin", pace=pace)
    assert 0.0 < pace.spent[0] < 1.0
    await until(lambda: floor.in_workers)
    floor.go.set()
    await call


@a_still_clock
async def test_whoever_is_answered_may_call_again_at_once(floor: Floor) -> None:
    guest = await Guest.of(await floor.program())
    floor.answer = lambda: asyncio.sleep(0, b"")
    call = guest.later("ask")
    again: list[object] = []
    call.add_done_callback(lambda _: again.append(guest.start("one")))
    await call
    await asyncio.sleep(0)
    assert again[0] == b"1" or await again[0] == b"1"  # type: ignore[misc]


async def test_the_clock_goes_for_as_long_as_a_guest_runs_alone(floor: Floor) -> None:
    """Nobody else calls anything meanwhile; without a clock the guest could not be stopped any more."""
    guest, ticker = await Guest.of(await floor.program()), floor.schedule.ticker
    call = guest.later("loop", within=600.0)
    epoch = ticker.epoch
    await until(lambda: ticker.epoch > epoch + 3 * _PATIENCE)
    guest.instance.close()
    with pytest.raises(UnavailableError):
        await call
    assert await floor.schedule.idle(5.0)


@pytest.mark.parametrize("way", ["at once", "woken", "in a worker"])
async def test_a_clock_that_sleeps_is_woken(floor: Floor, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guest, ticker = await Guest.of(await floor.program()), floor.schedule.ticker
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: gate
    epochs: list[int] = []

    def on_spin(scope: Any) -> None:
        epochs.append(ticker.epoch)
        if len(epochs) == 50_000:  # many slices; without a clock they would be one
            floor.go.set()

    floor.on_spin = on_spin
    if way == "woken":
        call = guest.later("ask_and_spin")
    with monkeypatch.context() as soon:
        soon.setattr(ticker, "_sleep", lambda seconds: None)
        await until(lambda: ticker.asleep)
    gate.set_result(b"")
    if way == "woken":
        await call
    else:
        await whole(lambda: guest.start("spin", pace=Watched(slow=way == "in a worker")))
    assert epochs[0] < epochs[-1]


@a_still_clock
async def test_who_wakes_has_a_new_slice(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: gate
    floor.go.set()
    call = guest.later("ask_and_spin", pace=pace)
    for _ in range(5):
        machine().engine.increment_epoch()  # the slice that it began with is over
    gate.set_result(b"")
    assert await call == b"3"
    assert "missed" not in pace.said


@a_still_clock
@pytest.mark.parametrize("way", ["at once", "woken", "in a worker"])
async def test_whoever_runs_a_guest_says_so_to_the_clock(floor: Floor, way: str) -> None:
    """Also where it goes: it may be about to sleep."""
    guest, ticker = await Guest.of(await floor.program()), floor.schedule.ticker
    await until(lambda: not ticker.asleep)
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    said: list[bool] = []
    floor.answer, floor.on_spin = (lambda: gate), (lambda scope: said.append(ticker.used))
    floor.go.set()
    ticker.used = False
    if way == "woken":
        call = guest.later("ask_and_spin")
        ticker.used = False
        gate.set_result(b"")
        await call
    else:
        await whole(lambda: guest.start("spin", pace=Watched(slow=way == "in a worker")))
    assert said == [True]


@one_thread
async def test_a_thread_is_shared_by_who_waits_for_it(floor: Floor) -> None:
    first, second = await Guest.of(await floor.program()), await Guest.of(await floor.program())
    slow = Watched(slow=True)
    endless = first.later("loop", pace=slow)
    await until(lambda: first.instance.inline is False)
    call = second.later("spin", pace=slow)
    await until(lambda: floor.in_workers > 100)  # the one that never ends gave its thread away
    floor.go.set()
    assert await asyncio.wait_for(call, 10) == b"2"
    assert not endless.done()
    assert "missed" not in slow.said  # that is for who holds the loop
    first.instance.close()
    with pytest.raises(UnavailableError):
        await endless
