"""Who runs a guest, and when: the event loop for one slice of time, a worker for what takes longer.

What becomes of a call
- It is done within its first slice: it was run on the loop, and `run` answers there and then. Nothing is made for it.
- It waits for the host: its fiber rests, and the loop polls it again when the answer is there. No thread is used.
- Its slice is over: a worker polls it on, a few slices at a time while others wait for a thread. When it waits for the host
  it comes back to the loop.
- Its method has kept running out of its slice: a worker runs it from the beginning (see pace.py).

The loop owns everything but the guest: who may enter an instance, the deadline, what a guest waits for, and when an
instance is freed. A call is answered once, by whoever is first: the guest, the timer with DeadlineError, `refuse`, or the
caller who cancels; in the last three cases the guest is stopped. A guest that rests is freed at once; one that a worker
runs is freed when its slice is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from types import CoroutineType
from typing import Any, Generic, NamedTuple, TypeVar

from insula.errors import DeadlineError, InsulaError
from insula.wasm.contract import Exchange, RefusalError
from insula.wasm.faults import StoppedError
from insula.wasm.instance import LiveInstance, cancelled, discard
from insula.wasm.pace import Pace
from insula.wasm.ticker import Ticker
from insula.wasm.workers import Lane, Workers

T = TypeVar("T")

#: The way of a guest: each step is one poll, the value at the end is the answer.
Steps = Generator[None, None, T]

#: Polls of a worker after which it gives its thread to who waits for one.
_TURN = 4

#: A guest with more memory than this (bytes) is freed in a thread: giving it back takes the kernel a while.
_LARGE = 4 << 20


class _Outcome(NamedTuple):
    """What a few polls came to: `over` with a value or an error, or not over yet."""

    over: bool
    value: Any = None
    error: BaseException | None = None
    polls: int = 0


_AFTER_ONE = _Outcome(False, polls=1)


class Schedule:
    """What the calls of one engine share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, workers: Workers, ticker: Ticker) -> None:
        self.loop = loop
        self.workers = workers
        self.ticker = ticker
        self.instances = 0
        self.running = 0
        self.tasks: set[asyncio.Future[Any]] = set()
        self._changed: asyncio.Event | None = None

    @property
    def quiet(self) -> bool:
        """Whether no call is under way, in a worker or at rest, and nothing of the host's for one."""
        return not self.running and not self.tasks

    async def idle(self, seconds: float) -> bool:
        """Waits, so long at most, until it is quiet; whether that is so."""
        end = time.monotonic() + seconds
        while not self.quiet:
            self._changed = asyncio.Event()
            try:
                await asyncio.wait_for(self._changed.wait(), end - time.monotonic())
            except TimeoutError:
                return self.quiet
        return True

    def changed(self) -> None:
        """Wakes who waits for `idle`."""
        if self._changed is not None:
            self._changed.set()

    def tick(self) -> None:
        """Before a guest runs: the clock goes."""
        ticker = self.ticker
        ticker.used = True
        if ticker.asleep:
            ticker.wake()

    def free(self, instance: LiveInstance) -> None:
        """Frees an instance that nobody is in."""
        if instance.size() > _LARGE:
            self.workers.tidy(instance.free)
        else:
            instance.free()


class Running(Generic[T]):
    """A call (or a start) that was not done at once. `left` is called when nobody is in the instance any more, before the
    answer is given."""

    def __init__(
        self,
        schedule: Schedule,
        lane: Lane,
        instance: LiveInstance,
        steps: Steps[T],
        *,
        pace: Pace,
        seconds: float,
        late: str,
        left: Callable[[], None],
    ) -> None:
        loop = schedule.loop
        self.future: asyncio.Future[T] = loop.create_future()
        self.future.add_done_callback(self._answered)
        self._timer = loop.call_later(seconds, self._expire)
        schedule.running += 1
        self._schedule = schedule
        self._lane = lane
        self._instance = instance
        self._steps = steps
        self._pace = pace
        self._late = late
        self._left = left
        self._in_worker = False
        self._missed = False
        self._waiting: asyncio.Future[Any] | asyncio.TimerHandle | None = None

    def begin_in_worker(self) -> None:
        """The first step in a worker."""
        self._submit(fresh=True)

    def follow(self) -> None:
        """After a first step that the caller took: the guest is not done."""
        self._follow(_Outcome(False), here=True)

    def refuse(self, error: InsulaError) -> None:
        """Answers with an error, and stops the guest."""
        if not self.future.done():
            self.future.set_exception(error)
            self._stop()

    # On the loop

    def _expire(self) -> None:
        self.refuse(DeadlineError(self._late))

    def _answered(self, future: asyncio.Future[T]) -> None:
        self._timer.cancel()
        if future.cancelled():
            self._stop()

    def _stop(self) -> None:
        self._instance.stop()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
            self._leave(None)
        elif self._in_worker and self._schedule.workers.withdraw(self._lane, self._work):
            self._in_worker = False
            self._leave(None)

    def _follow(self, outcome: _Outcome, *, here: bool) -> None:
        if outcome.over:
            if here and not self._missed:
                self._pace.in_time()
            self._leave(outcome)
        elif self.future.done():  # stopped while it was being polled
            self._instance.stop()
            self._leave(None)
        elif self._instance.wait is not None:
            self._wait(self._instance.wait)
        else:
            if here:
                self._missed = True
                pace = self._pace
                pace.missed(time.thread_time() - pace.began if pace.misses else 0.0)
            self._submit()

    def _wait(self, wait: float | Awaitable[Any]) -> None:
        self._instance.wait = None
        if isinstance(wait, float):
            self._waiting = self._schedule.loop.call_later(wait, self._slept)
            return
        try:
            if type(wait) is CoroutineType:
                task: asyncio.Future[Any] = self._schedule.loop.create_task(wait)
            else:
                task = asyncio.ensure_future(wait)
        except (TypeError, ValueError) as error:
            self._instance.resume_with(_raising(error))
            self._go_on()
        else:
            self._waiting = task
            self._schedule.tasks.add(task)
            task.add_done_callback(self._resumed)

    def _slept(self) -> None:
        self._waiting = None
        self._instance.resume_with(cancelled)
        self._go_on()

    def _resumed(self, task: asyncio.Future[Any]) -> None:
        schedule = self._schedule
        schedule.tasks.discard(task)
        if self._waiting is not task:  # it was given up
            if not task.cancelled():
                task.exception()  # seen
            schedule.changed()
            return
        self._waiting = None
        self._instance.resume_with(cancelled if task.cancelled() else task.result)
        self._go_on()

    def _go_on(self) -> None:
        pace = self._pace
        if not pace.unwatched:
            if pace.slow:
                self._submit()
                return
            pace.began = time.thread_time()
        self._instance.slice()
        self._follow(self._poll(1), here=True)

    def _submit(self, *, fresh: bool = False) -> None:
        self._fresh = fresh
        self._in_worker = True
        self._instance.inline = False
        self._schedule.workers.submit(self._lane, self._work)

    def _returned(self, outcome: _Outcome) -> None:
        self._in_worker = False
        self._instance.inline = True
        self._schedule.workers.done(self._lane)
        if self._fresh:
            if outcome.polls == int(self._instance.wait is not None):
                self._pace.was_quick()
            else:
                self._pace.was_slow()
        self._follow(outcome, here=False)

    def _leave(self, outcome: _Outcome | None) -> None:
        """Nobody is in the instance any more."""
        instance = self._instance
        self._steps.close()
        self._schedule.running -= 1
        self._schedule.changed()
        if self.future.cancelled():
            instance.alive = False
        self._left()
        error = outcome.error if outcome is not None else None
        discard(instance.wait)
        if not instance.alive:
            self._schedule.free(instance)
        if self.future.done() or outcome is None:
            return
        if error is None:
            self.future.set_result(outcome.value)
        elif isinstance(error, StoppedError):
            self.future.set_exception(DeadlineError(self._late))
        else:
            self.future.set_exception(error)

    # In a worker

    def _work(self) -> None:
        schedule = self._schedule
        self._instance.slice()
        outcome = first = self._poll(_TURN)
        while not outcome.over and outcome.polls == _TURN and not schedule.workers.crowded:
            outcome = self._poll(_TURN)
        if outcome is not first:  # or the end of a long call, in the first slice of a turn, would pass for a quick one
            outcome = outcome._replace(polls=_TURN + outcome.polls)
        try:
            schedule.loop.call_soon_threadsafe(self._returned, outcome)
        except RuntimeError:  # the loop is closed
            self._instance.free()

    # In either

    def _poll(self, most: int) -> _Outcome:
        """At most so many steps; fewer where the guest is done, waits or was stopped."""
        instance = self._instance
        tick = self._schedule.tick
        polls = 0
        try:
            while polls < most:
                tick()  # each time, or the clock would sleep while one guest runs on alone
                next(self._steps)
                polls += 1
                if instance.wait is not None or instance.stopped:
                    break
        except StopIteration as stop:
            return _Outcome(True, stop.value, polls=polls)
        except RefusalError as error:
            return _Outcome(True, error=error, polls=polls)
        except BaseException as error:
            instance.alive = False
            return _Outcome(True, error=instance.why(error), polls=polls)
        return _AFTER_ONE if polls == 1 else _Outcome(False, polls=polls)


def start_steps(instance: LiveInstance) -> Steps[LiveInstance]:
    """Makes the instance and runs its `_initialize`."""
    instance.instantiate()
    while instance.poll() is None:
        yield
    instance.find_exports()
    instance.enter()
    if instance.has("_initialize") and instance.launch("_initialize", ()) is None:
        yield
        while instance.poll() is None:
            yield
    return instance


def run_steps(instance: LiveInstance, exchange: Exchange, payload: bytes) -> Steps[bytes]:
    """A whole exchange."""
    args = exchange.begin(instance, payload)
    result = instance.launch(exchange.export, args)
    while result is None:
        yield
        result = instance.poll()
    return exchange.finish(instance, args, result)


def rest_steps(instance: LiveInstance, exchange: Exchange, args: tuple[int, ...]) -> Steps[bytes]:
    """What is left of an exchange whose export was entered."""
    while (result := instance.poll()) is None:
        yield
    return exchange.finish(instance, args, result)


def _raising(error: Exception) -> Callable[[], bytes]:
    def outcome() -> bytes:
        raise error

    return outcome
