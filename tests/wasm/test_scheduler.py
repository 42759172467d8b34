"""Each state that a call can be in, and each way out of it: real guests, on the loop, at rest, in a worker and in line."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from insula.errors import Code, DeadlineError, GuestError, InsulaError, LimitError, UnavailableError
from insula.wasm import native
from insula.wasm.contract import HostImport, Limits, RefusalError, Signature, WasiOptions
from insula.wasm.engine import NativeEngine, NativeProgram, OwnedInstance
from insula.wasm.instance import LiveInstance
from insula.wasm.machine import machine
from insula.wasm.pace import Pace
from insula.wasm.ticker import _PATIENCE
from tests.guests import digest, wat
from tests.wasm.test_contract import Steps

#: `ask` asks the host once; `spin` asks it until it answers something; `both` spins, then asks; `loop` asks nobody.
GUEST = """(module
  (import "t" "ask" (func $ask (result i32)))
  (import "t" "spin" (func $spin (result i32)))
  (memory (export "memory") 1)
  (func (export "one") (result i32) (i32.const 1))
  (func (export "trap") (result i32) unreachable)
  (func (export "ask") (result i32) (call $ask))
  (func (export "twice") (result i32) (i32.add (call $ask) (call $ask)))
  (func $turn (loop (br_if 0 (i32.eqz (call $spin)))))
  (func (export "spin") (result i32) (call $turn) (i32.const 2))
  (func (export "both") (result i32) (call $turn) (call $ask))
  (func (export "ask_and_spin") (result i32) (drop (call $ask)) (call $turn) (i32.const 3))
  (func (export "loop") (result i32) (loop (br 0)) (i32.const 0))
  (func (export "grow") (result i32) (memory.grow (i32.const 100))))"""


class Watched(Pace):
    """A pace that keeps what it is told."""

    def __init__(self, *, slow: bool = False) -> None:
        super().__init__()
        self.said: list[str] = []
        self.spent: list[float] = []
        if slow:
            self.helper_overran()

    def in_time(self) -> None:
        self.said.append("in time")
        super().in_time()

    def missed(self, spent: float) -> None:
        self.said.append("missed")
        self.spent.append(spent)
        super().missed(spent)

    def was_slow(self) -> None:
        self.said.append("was slow")
        super().was_slow()

    def was_quick(self) -> None:
        self.said.append("was quick")
        super().was_quick()


class Floor:
    """An engine and programs of the guest. `spun` is how often a guest asked whether to go on, and in which threads;
    `go` lets it; `answer` is what `ask` gives."""

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self.schedule = engine.schedule
        self.workers = engine.schedule.workers
        self.go = threading.Event()
        self.answer: Callable[[], bytes | Awaitable[bytes]] = lambda: b""
        self.spun: Counter[str] = Counter()
        self.scopes: list[Any] = []
        self.on_spin: Callable[[Any], None] = lambda scope: None

    async def program(self, **limits: Any) -> NativeProgram:
        path = wat(GUEST)
        module = await self.engine.load(path, digest(path))
        one = Signature((), ("i32",))
        imports = [
            HostImport("t", "ask", one, lambda g, a: b"", self._ask, lambda g, answer: (len(answer),)),
            HostImport("t", "spin", one, lambda g, a: b"", self._spin, lambda g, answer: (len(answer),)),
        ]
        made = self.engine.link(module, imports, Limits(**limits), WasiOptions())
        assert isinstance(made, NativeProgram)
        return made

    def _ask(self, scope: Any, request: bytes) -> bytes | Awaitable[bytes]:
        self.scopes.append(scope)
        return self.answer()

    def _spin(self, scope: Any, request: bytes) -> bytes:
        self.spun[threading.current_thread().name] += 1
        self.on_spin(scope)
        return b"1" if self.go.is_set() else b""

    @property
    def in_workers(self) -> int:
        return sum(count for name, count in self.spun.items() if name.startswith("insula-guest"))


class Guest:
    """One instance, and calls of it."""

    def __init__(self, program: NativeProgram, instance: OwnedInstance) -> None:
        self.program, self.instance = program, instance

    @classmethod
    async def of(cls, program: NativeProgram) -> Guest:
        instance = await program.instantiate()
        assert isinstance(instance, OwnedInstance)
        return cls(program, instance)

    def start(
        self, export: str, *, within: float = 20.0, pace: Pace | None = None, scope: Any = None
    ) -> bytes | asyncio.Future[bytes]:
        steps = Steps(export)
        steps.pace = pace or Pace()
        return self.program.runner(steps)(self.instance, b"", scope, time.monotonic() + within)

    def later(self, export: str, **more: Any) -> asyncio.Future[bytes]:
        answer = self.start(export, **more)
        assert not isinstance(answer, bytes)
        return answer


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[LiveInstance, str]]:
    """Each instance that was freed, every time that it was, and by which thread."""
    seen: list[tuple[LiveInstance, str]] = []
    free = LiveInstance.free

    def watched(instance: LiveInstance) -> None:
        seen.append((instance, threading.current_thread().name))
        free(instance)

    monkeypatch.setattr(LiveInstance, "free", watched)
    return seen


@pytest.fixture(params=[8])
async def floor(
    request: pytest.FixtureRequest, cache: Path, freed: list[tuple[LiveInstance, str]]
) -> AsyncIterator[Floor]:
    """An engine with so many threads; after each test every instance was freed, once."""
    cells = set(native._cells)
    engine = await NativeEngine.open(cache, threads=request.param)
    here = Floor(engine)
    yield here
    here.go.set()
    await engine.close()
    assert max(Counter(id(instance) for instance, _ in freed).values(), default=1) == 1
    assert set(native._cells) <= cells
    assert (engine.schedule.instances, engine.schedule.running, engine.guest_memory.held) == (0, 0, 0)
    assert (engine.schedule.workers.busy, engine.schedule.tasks) == (0, set())


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock stands, so that no slice ends however busy the machine is."""
    goes = threading.Event()
    monkeypatch.setattr(machine().ticker, "_sleep", lambda seconds: goes.wait(20))
    yield
    goes.set()


a_still_clock = pytest.mark.usefixtures("still")
one_thread = pytest.mark.parametrize("floor", [1], indirect=True)


async def whole(start: Callable[[], bytes | asyncio.Future[bytes]]) -> bytes:
    """The answer, whether it comes at once or later."""
    answer = start()
    return answer if isinstance(answer, bytes) else await answer


async def until(condition: Callable[[], object]) -> None:
    """Waits for what no event tells."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is looked at belongs to the product
            await asyncio.sleep(0.001)


# The ways of a call that is answered


@a_still_clock
async def test_what_is_done_at_once_is_no_job(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    assert guest.start("one", pace=pace) == b"1"
    assert guest.instance.job is None
    assert floor.schedule.quiet
    assert pace.said == []  # of a method that nobody watches nothing is told
    pace.missed(1.0)
    assert guest.start("one", pace=pace) == b"1"
    assert (pace.said, pace.unwatched) == (["missed", "in time"], True)


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
    call = guest.later("ask", pace=pace, scope="mine")
    assert (floor.schedule.running, len(floor.schedule.tasks), floor.workers.busy) == (1, 1, 0)
    assert not floor.schedule.quiet
    assert guest.instance.inline
    with pytest.raises(InsulaError, match="in use"):
        guest.start("one")
    gate.set_result(b"123")
    assert await call == b"3"
    assert floor.schedule.quiet
    assert floor.scopes == ["mine"]
    assert pace.said == ["in time"]
    assert guest.start("one") == b"1"


async def test_what_takes_longer_than_its_slice_goes_on_in_a_worker(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    inline: list[tuple[bool, bool]] = []
    floor.on_spin = lambda instance: inline.append(
        (threading.current_thread() is threading.main_thread(), instance.inline)
    )
    call = guest.later("spin", pace=pace, scope=guest.instance)
    assert floor.workers.busy == 1
    await until(lambda: floor.in_workers > 100)
    floor.go.set()
    assert await call == b"2"
    assert set(inline) == {(True, True), (False, False)}
    assert guest.instance.inline
    assert pace.said == ["missed"]
    assert floor.schedule.quiet
    assert floor.workers.busy == 0
    assert guest.start("one") == b"1"


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
    assert "in time" not in pace.said  # what was done in its last slice does not make good for the first


async def test_what_wakes_and_takes_longer_goes_to_a_worker(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    floor.answer = lambda: asyncio.sleep(0, b"")
    call = guest.later("ask_and_spin", pace=pace)
    await until(lambda: floor.in_workers > 100)
    assert set(pace.said) == {"missed"}
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
    assert pace.said == ["was quick"]
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
    assert pace.said == ["was slow"] * 16


@a_still_clock
async def test_a_guest_of_a_method_that_became_slow_wakes_in_a_worker(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    floor.answer = lambda: gate
    call = guest.later("ask_and_spin", pace=pace)
    pace.helper_overran()
    gate.set_result(b"")
    await until(lambda: floor.in_workers > 10)
    assert floor.spun.keys() == {"insula-guest-1"}
    floor.go.set()
    assert await call == b"3"
    assert pace.said == []


@a_still_clock
async def test_the_processors_time_is_counted_from_when_a_watched_method_wakes(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    pace.missed(0.0)
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


async def test_what_a_slice_took_of_the_processor_is_told_of_a_method_that_is_watched(floor: Floor) -> None:
    guest, pace = await Guest.of(await floor.program()), Watched()
    before = time.thread_time()
    for _ in range(2):
        floor.go.clear()
        floor.spun.clear()
        call = guest.later("spin", pace=pace)
        await until(lambda: floor.in_workers)
        floor.go.set()
        await call
    first, second = pace.spent
    assert first == 0.0  # nobody had looked
    assert 0.0 < second <= time.thread_time() - before


@a_still_clock
async def test_whoever_is_answered_may_call_again_at_once(floor: Floor) -> None:
    guest = await Guest.of(await floor.program())
    floor.answer = lambda: asyncio.sleep(0, b"")
    call = guest.later("ask")
    again: list[object] = []
    call.add_done_callback(lambda _: again.append(guest.start("one")))
    await call
    await asyncio.sleep(0)
    assert again == [b"1"]


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


# The ways of a call that is ended: in each state, by each of those who may


@pytest.mark.parametrize("state", ["at rest", "asleep in a worker's line", "in a worker"])
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
    else:
        await asyncio.sleep(0)
        assert host.cancelled()
    assert await floor.schedule.idle(5.0)
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
    assert len(freed) == 1
    assert floor.schedule.quiet


async def test_no_bytes_out_of_what_a_guest_waits_for(floor: Floor, freed: list[tuple[LiveInstance, str]]) -> None:
    guest = await Guest.of(await floor.program())
    floor.answer = lambda: asyncio.sleep(0, "text")  # type: ignore[arg-type]
    with pytest.raises(InsulaError, match="inside the server"):
        await guest.later("ask")
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
    assert (await Guest.of(guest.program)).start("one") == b"1"


async def test_a_coroutine_that_was_never_begun_is_closed(floor: Floor, recwarn: pytest.WarningsRecorder) -> None:
    """The guest wants to wait in a worker after its call was ended: nobody awaits what the host gave."""
    guest, slow = await Guest.of(await floor.program()), Pace()
    slow.helper_overran()
    made: list[Any] = []
    inside, leave = threading.Event(), threading.Event()

    async def never() -> bytes:
        return b""

    def answer() -> Any:
        inside.set()
        leave.wait(20)
        made.append(never())
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
    assert [one for one, _ in freed] == [guest.instance]
    assert floor.schedule.instances == 0


@a_still_clock
async def test_a_large_guest_is_freed_in_a_thread(floor: Floor, freed: list[tuple[LiveInstance, str]]) -> None:
    small, large = await Guest.of(await floor.program()), await Guest.of(await floor.program())
    assert large.start("grow") == b"1"
    small.instance.close()
    assert freed == [(small.instance, threading.main_thread().name)]
    large.instance.close()
    await until(lambda: len(freed) == 2)
    assert freed[1][1].startswith("insula-guest")


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
    inside = native._cells[guest.instance.context]
    assert inside is guest.instance
    runner.get_loop().close()
    here.go.set()
    here.workers.close()
    here.workers.join(10)
    assert [(one, name) for one, name in freed] == [(guest.instance, "insula-guest-1")]
    assert guest.instance.context not in native._cells
