"""Each way in which a call is ended, in each state that it can be in; and what is left of its guest."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from insula.errors import Code, DeadlineError, GuestError, InsulaError, LimitError, UnavailableError
from insula.wasm.contract import RefusalError
from insula.wasm.engine import NativeEngine
from insula.wasm.instance import LiveInstance
from insula.wasm.native.callbacks import cells
from insula.wasm.pace import Pace
from tests.wasm.floor import Floor, Guest, Watched, a_still_clock, floor, freed, one_thread, still, until, whole
from tests.wasm.test_contract import Steps

__all__ = ["floor", "freed", "still"]  # fixtures


# The ways of a call that is ended: in each state, by each of those who may


@pytest.mark.parametrize("state", ["at rest", "asleep in a worker's line", "in a worker", "in a later turn"])
@pytest.mark.parametrize("by", ["deadline", "refusal", "cancel"])
@one_thread
async def test_a_call_is_ended_in_any_state(
    floor: Floor, freed: list[tuple[LiveInstance, str]], state: str, by: str
) -> None:
    program = await floor.program()
    guest, other = await Guest.of(program), await Guest.of(await floor.program())
    instance, slow = guest.instance, Pace()
    slow.helper_overran()
    host: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: host
    within = 0.1 if by == "deadline" else 20.0
    occupied = None
    if state == "at rest":
        call = guest.later("ask", within=within)
    elif state == "in a later turn":
        turn = floor.schedule.turn
        turn.full, turn._armed, turn._spent = True, True, 1.0  # and no turn comes
        call = guest.later("loop", within=within)
        assert floor.schedule.running == 1
    elif state == "in a worker":
        call = guest.later("spin", within=within, pace=slow)
        await until(lambda: floor.in_workers)
    else:
        entered, leave = threading.Event(), threading.Event()

        def hold(scope: Any) -> None:
            entered.set()
            leave.wait(20)

        floor.on_spin = hold
        occupied = other.later("spin", pace=slow)
        await asyncio.to_thread(entered.wait, 10)
        call = guest.later("loop", within=within, pace=slow)
        assert floor.workers.busy == 2

    match by:
        case "refusal":
            instance.close()
            instance.close()
            with pytest.raises(UnavailableError, match="ended while it worked"):
                await call
        case "cancel":
            call.cancel()
            await asyncio.sleep(0)
        case _:
            with pytest.raises(DeadlineError, match="in time"):
                await call
    assert not instance.alive

    if state == "in a worker":
        await until(lambda: freed)
        assert floor.workers.busy == 0
    elif occupied is not None:
        await asyncio.sleep(0)
        assert floor.workers.busy == 1  # it was taken out of the line
        leave.set()
        floor.go.set()
        assert await occupied == b"2"
    elif state == "at rest":
        await asyncio.sleep(0)
        assert host.cancelled()
    if state == "in a later turn":
        turn._armed = turn.full = False
    assert await floor.schedule.idle(5.0)
    await until(lambda: freed)
    assert [one for one, _ in freed] == [instance]
    assert instance.job is None
    assert floor.schedule.instances == 1
    instance.close()  # again, by whoever keeps it
    assert len(freed) == 1
    assert other.start("one") == b"1"
    with pytest.raises(InsulaError, match="was ended"):
        guest.start("one")


async def test_nothing_of_an_answered_call_is_kept_until_its_deadline(floor: Floor) -> None:
    guest = await Guest.of(await floor.program())
    host: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: host
    call = guest.later("ask", within=600.0)
    job = weakref.ref(guest.instance.job)
    assert job() is not None
    host.set_result(b"")
    assert await call == b"0"
    del call
    await asyncio.sleep(0)
    gc.collect()
    assert job() is None


@a_still_clock
async def test_a_guest_that_was_stopped_calls_no_host_function_any_more(floor: Floor) -> None:
    guest, slow = await Guest.of(await floor.program()), Pace()
    slow.helper_overran()
    inside, leave = threading.Event(), threading.Event()

    def hold(scope: Any) -> None:
        inside.set()
        leave.wait(20)

    floor.on_spin = hold
    call = guest.later("spin", pace=slow)
    await asyncio.to_thread(inside.wait, 10)
    guest.instance.close()
    with pytest.raises(UnavailableError):
        await call
    assert not floor.schedule.quiet  # the guest is still in there
    assert not await floor.schedule.idle(0.01)
    leave.set()
    assert await floor.schedule.idle(5.0)
    assert floor.spun.total() == 1


@pytest.mark.parametrize("export", ["ask_and_spin", "nap_and_spin"])
async def test_a_guest_that_woke_and_is_in_a_worker_is_freed_when_it_comes_out(
    floor: Floor, freed: list[tuple[LiveInstance, str]], export: str
) -> None:
    """What it waited for is over: to end that would be to free a guest that a thread is in."""
    guest, inside, leave = await Guest.of(await floor.program()), threading.Event(), threading.Event()

    def hold(scope: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            leave.wait(20)

    floor.answer, floor.on_spin = (lambda: asyncio.sleep(0, b"")), hold
    call = guest.later(export)
    await asyncio.to_thread(inside.wait, 10)
    guest.instance.close()
    with pytest.raises(UnavailableError):
        await call
    assert freed == []
    assert floor.schedule.running == 1
    leave.set()
    assert await floor.schedule.idle(5.0)
    assert [one for one, _ in freed] == [guest.instance]


async def test_what_a_worker_brings_after_the_end_is_nobodys(
    floor: Floor, freed: list[tuple[LiveInstance, str]]
) -> None:
    """The guest answers, or wants to wait, in the very slice in which its call was ended."""
    for export in ("spin", "both"):
        guest, slow = await Guest.of(await floor.program()), Watched(slow=True)
        inside, leave = threading.Event(), threading.Event()

        def hold(scope: Any, inside: threading.Event = inside, leave: threading.Event = leave) -> None:
            inside.set()
            leave.wait(20)

        floor.on_spin, floor.answer = hold, lambda: asyncio.sleep(60, b"")
        floor.go.set()
        before = len(freed)
        call = guest.later(export, pace=slow)
        await asyncio.to_thread(inside.wait, 10)
        call.cancel()
        await asyncio.sleep(0)
        leave.set()
        assert await floor.schedule.idle(5.0)
        assert not guest.instance.alive
        assert [one for one, _ in freed[before:]] == [guest.instance]
        assert floor.schedule.tasks == set()


# What the host makes of it


async def _fail(error: BaseException) -> bytes:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (LimitError("too many"), LimitError, "too many"),
        (RuntimeError("a secret"), InsulaError, "inside the server"),
        (asyncio.CancelledError(), UnavailableError, "cancelled what the guest waited for"),
        (TimeoutError("a secret"), InsulaError, "inside the server"),
    ],
)
async def test_an_error_out_of_what_a_guest_waits_for(
    floor: Floor, freed: list[tuple[LiveInstance, str]], error: BaseException, kind: type[InsulaError], text: str
) -> None:
    guest = await Guest.of(await floor.program())
    floor.answer = lambda: _fail(error)
    with pytest.raises(kind, match=text) as caught:
        await guest.later("twice")
    assert "secret" not in str(caught.value)
    assert len(floor.scopes) == 1
    assert not guest.instance.alive
    await until(lambda: freed)
    assert len(freed) == 1
    assert floor.schedule.quiet


async def test_no_bytes_out_of_what_a_guest_waits_for(floor: Floor, freed: list[tuple[LiveInstance, str]]) -> None:
    guest = await Guest.of(await floor.program())
    floor.answer = lambda: asyncio.sleep(0, "text")  # type: ignore[arg-type]
    with pytest.raises(InsulaError, match="inside the server"):
        await guest.later("ask")
    await until(lambda: freed)
    assert len(freed) == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_a_host_function_that_goes_on_after_the_end_is_waited_for_by_idle_alone(
    floor: Floor, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    guest = await Guest.of(await floor.program())
    tidied = asyncio.Event()

    async def stubborn() -> bytes:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await tidied.wait()
        if fails:
            raise RuntimeError("nobody hears this")
        return b"late"

    floor.answer = stubborn
    call = guest.later("ask", within=0.05)
    with pytest.raises(DeadlineError):
        await call
    assert (floor.schedule.running, len(floor.schedule.tasks)) == (0, 1)
    assert not await floor.schedule.idle(0.01)
    idle = asyncio.ensure_future(floor.schedule.idle(20.0))
    await asyncio.sleep(0)
    tidied.set()
    assert await asyncio.wait_for(idle, 10)
    assert floor.schedule.tasks == set()
    assert "never retrieved" not in caplog.text
    assert ("a host function failed after its caller had left" in caplog.text) is fails
    assert (await Guest.of(guest.program)).start("one") == b"1"


async def test_a_coroutine_that_was_never_begun_is_closed(floor: Floor, recwarn: pytest.WarningsRecorder) -> None:
    """The guest wants to wait in a worker after its call was ended: nobody awaits what the host gave."""
    guest, slow = await Guest.of(await floor.program()), Pace()
    slow.helper_overran()
    made: list[Any] = []
    inside, leave = threading.Event(), threading.Event()

    async def inner() -> bytes:
        return b""

    async def never(awaited: Any) -> bytes:
        return bytes(await awaited)

    def answer() -> Any:
        inside.set()
        leave.wait(20)
        made.append(never(inner()))
        return made[0]

    floor.answer = answer
    call = guest.later("ask", pace=slow)
    await asyncio.to_thread(inside.wait, 10)
    call.cancel()
    await asyncio.sleep(0)
    leave.set()
    assert await floor.schedule.idle(5.0)
    assert made[0].cr_frame is None
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


async def test_a_call_of_what_is_gone_is_to_be_tried_again(floor: Floor) -> None:
    guest = await Guest.of(await floor.program())
    guest.program.close()
    with pytest.raises(UnavailableError, match="gone"):
        guest.start("one")
    with pytest.raises(UnavailableError, match="gone"):
        guest.program.instantiate()


# The ends of the guest's own


@a_still_clock
async def test_a_refusal_in_a_worker_leaves_the_guest_well(floor: Floor) -> None:
    guest = await Guest.of(await floor.program())

    class Refusing(Steps):
        def finish(self, guest: Any, args: tuple[int, ...], result: int) -> bytes:
            raise RefusalError("no such order", code=Code.NOT_FOUND)

    floor.answer = lambda: asyncio.sleep(0, b"")
    for export, slow in (("one", True), ("ask", False), ("one", False)):
        steps = Refusing(export)
        steps.pace = Watched(slow=slow)
        with pytest.raises(RefusalError, match="no such order"):
            await whole(partial(guest.program.runner(steps), guest.instance, b"", None, time.monotonic() + 20))
        assert guest.instance.alive
        assert guest.instance.job is None
    assert guest.start("one") == b"1"


@a_still_clock
@pytest.mark.parametrize("slow", [False, True])
async def test_a_trap_frees_the_guest(floor: Floor, freed: list[tuple[LiveInstance, str]], slow: bool) -> None:
    guest = await Guest.of(await floor.program())
    with pytest.raises(GuestError, match="unreachable"):
        await whole(lambda: guest.start("trap", pace=Watched(slow=slow)))
    assert not guest.instance.alive
    await until(lambda: freed)
    assert [one for one, _ in freed] == [guest.instance]
    assert floor.schedule.instances == 0


@pytest.mark.parametrize("export", ["ask_and_trap", "spin_and_trap"])
async def test_a_trap_after_a_while_frees_the_guest(
    floor: Floor, freed: list[tuple[LiveInstance, str]], export: str
) -> None:
    guest = await Guest.of(await floor.program())
    floor.answer = lambda: asyncio.sleep(0, b"")
    call = guest.later(export)
    floor.go.set()
    with pytest.raises(GuestError, match="unreachable"):
        await call
    await until(lambda: freed)
    assert [one for one, _ in freed] == [guest.instance]


@a_still_clock
async def test_a_large_guest_is_freed_in_a_thread(floor: Floor, freed: list[tuple[LiveInstance, str]]) -> None:
    small, large = await Guest.of(await floor.program()), await Guest.of(await floor.program())
    assert large.start("grow") == b"1"
    small.instance.close()
    assert freed == [(small.instance, threading.main_thread().name)]
    large.instance.close()
    await until(lambda: len(freed) == 2)
    assert freed[1][1] == "insula-tidy"


@a_still_clock
async def test_a_guest_that_ends_itself_is_freed_when_it_comes_out(
    floor: Floor, freed: list[tuple[LiveInstance, str]]
) -> None:
    guest = await Guest.of(await floor.program())
    inside: list[int] = []

    def close() -> bytes:
        guest.instance.close()
        inside.append(len(freed))
        return b""

    floor.answer = close
    assert guest.start("ask") == b"0"
    assert inside == [0], "it is in use"
    assert [one for one, _ in freed] == [guest.instance]
    assert floor.schedule.instances == 0


# The loop


async def test_idle_says_whether_it_is_quiet(floor: Floor) -> None:
    assert await floor.schedule.idle(0.0)
    guest = await Guest.of(await floor.program())
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: gate
    call = guest.later("ask")
    assert not await floor.schedule.idle(0.01)
    idle = asyncio.ensure_future(floor.schedule.idle(20.0))
    await asyncio.sleep(0)
    gate.set_result(b"")
    assert await asyncio.wait_for(idle, 10)
    await call


def test_a_guest_whose_loop_is_closed_is_freed_by_its_worker(
    cache: Path, freed: list[tuple[LiveInstance, str]]
) -> None:
    runner = asyncio.Runner()
    slow = Pace()
    slow.helper_overran()

    async def begin() -> tuple[Floor, Guest]:
        here = Floor(await NativeEngine.open(cache))
        guest = await Guest.of(await here.program())
        guest.later("spin", pace=slow)
        await until(lambda: here.in_workers)
        return here, guest

    here, guest = runner.run(begin())
    inside = cells[guest.instance.context]
    assert inside is guest.instance
    runner.get_loop().close()
    here.go.set()
    here.workers.close()
    here.workers.join(10)
    assert [(one, name[:12]) for one, name in freed] == [(guest.instance, "insula-guest")]
    assert guest.instance.context not in cells
