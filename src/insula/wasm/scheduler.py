"""Who runs a guest, and when: the event loop for one slice of time, a worker for what takes longer.

What becomes of a call
- It is done within its first slice: it was run on the loop, and `run` answers there and then. Nothing is made for it.
- The guests of this turn of the loop have used up its time (turn.py): it begins in a later turn.
- It waits for the host: its fiber rests, and the loop polls it again when the answer is there. No thread is used.
- Its slice is over: a worker polls it on, a few slices at a time while others wait for a thread. When it waits for the host
  it comes back to the loop.
- Its method is slow: a worker runs it from the beginning (see pace.py). So does a start.

The loop owns everything but the guest: who may enter an instance, the deadline, what a guest waits for, and when an
instance is freed. A call is answered once, by the first of these: the guest, the timer with DeadlineError, `refuse`, or the
caller who cancels; in the last three cases the guest is stopped. An answer that comes when the deadline has passed is
DeadlineError, and a guest whose wait ends then is not resumed: here alone that is decided, whatever the timers do. A guest
that rests is freed at once; one that a worker runs is freed when its slice is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic, thread_time
from types import CoroutineType
from typing import Any, Generic, NamedTuple, TypeVar

from insula.background import fail, unheard
from insula.errors import DeadlineError, InsulaError
from insula.wasm.contract import RefusalError
from insula.wasm.faults import StoppedError
from insula.wasm.instance import LiveInstance
from insula.wasm.native.cell import LONG_SLICE, SLICE
from insula.wasm.pace import Pace
from insula.wasm.schedule import Schedule
from insula.wasm.steps import Steps
from insula.wasm.waits import cancelled, discard, give_up
from insula.wasm.workers import Account

T = TypeVar("T")

#: Polls of a worker after which it gives its thread to a job that waits for one.
_TURN = 3


class _Outcome(NamedTuple):
    """What a few polls came to: `over` with a value or an error, or not over yet. `spent` is processor time (s), of a
    worker."""

    over: bool
    value: Any = None
    error: BaseException | None = None
    polls: int = 0
    spent: float = 0.0


_AFTER_ONE = _Outcome(False, polls=1)


class Running(Generic[T]):
    """A call (or a start) that was not done at once. `left` is called when nobody is in the instance any more, before the
    answer is given. `deadline` is of `time.monotonic()`."""

    def __init__(
        self,
        schedule: Schedule,
        account: Account,
        instance: LiveInstance,
        steps: Steps[T],
        *,
        pace: Pace,
        deadline: float,
        late: str,
        left: Callable[[], None],
    ) -> None:
        loop = schedule.loop
        self.future: asyncio.Future[T] = loop.create_future()
        self.future.add_done_callback(self._answered)
        self._timer = loop.call_later(max(0.0, deadline - monotonic()), self._expire)
        schedule.running += 1
        self._schedule = schedule
        self._account = account
        self._instance = instance
        self._steps = steps
        self._pace = pace
        self._deadline = deadline
        self._late = late
        self._left = left
        self._in_worker = False
        self._deferred = False
        self._fresh = False
        self._spent = 0.0
        self._waiting: asyncio.Future[Any] | asyncio.TimerHandle | None = None

    def begin_in_worker(self, *, counts: bool = True) -> None:
        """The first step in a worker. A call counts as one that waits, a start does not."""
        self._fresh = True
        self._submit(counts=counts)

    def begin_later(self) -> None:
        """The first step in a later turn of the loop."""
        self._defer()

    def follow(self, took: float) -> None:
        """Goes on with a guest that was not done after its first poll. The caller made that; it took `took` seconds."""
        if self._instance.wait is not None:
            self._schedule.ran(self._account, self._pace, took)
        else:
            self._schedule.missed(self._account, self._pace, took)
        self._follow(_AFTER_ONE)

    def refuse(self, error: InsulaError) -> None:
        """Answers with an error, and stops the guest."""
        if not self.future.done():
            fail(self.future, error)
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
            give_up(waiting)
            self._leave(None)
        elif self._deferred:
            self._schedule.turn.withdraw(self._account, self._go_on_now)
            self._deferred = False
            self._leave(None)
        elif self._in_worker and self._schedule.workers.withdraw(self._account, self._work):
            self._in_worker = False
            self._leave(None)

    def _follow(self, outcome: _Outcome) -> None:
        if outcome.over:
            self._leave(outcome)
        elif self.future.done():  # stopped while it was being polled
            self._instance.stop()
            self._leave(None)
        elif self._instance.wait is not None:
            error = self._instance.weigh_waiting()
            if error is None:
                self._wait(self._instance.wait)
            else:
                self._instance.alive = False
                self._leave(_Outcome(True, error=error))
        else:
            self._submit()

    def _wait(self, wait: float | Awaitable[Any]) -> None:
        self._instance.wait = None
        if isinstance(wait, float):
            self._waiting = self._schedule.loop.call_later(wait, self._slept, monotonic() + wait)
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

    def _slept(self, end: float) -> None:
        now = monotonic()
        if now >= self._deadline:
            self._expire()
        elif now < end:  # timers have a grain of a millisecond, and may be early by as much
            self._waiting = self._schedule.loop.call_later(end - now, self._slept, end)
        else:
            self._waiting = None
            self._instance.resume_with(cancelled)
            self._go_on()

    def _resumed(self, task: asyncio.Future[Any]) -> None:
        schedule = self._schedule
        schedule.tasks.discard(task)
        if self._waiting is not task:  # it was given up
            if not task.cancelled():
                unheard(task.exception(), "a host function")
            schedule.changed()
            return
        if monotonic() >= self._deadline:
            if not task.cancelled():
                unheard(task.exception(), "a host function")
            self._expire()
            return
        self._waiting = None
        self._instance.resume_with(cancelled if task.cancelled() else task.result)
        self._go_on()

    def _go_on(self) -> None:
        if self._pace.slow:
            self._fresh = True
            self._submit()
        elif self._schedule.turn.full and not self._schedule.turn.has_time(self._account):
            self._defer()
        else:
            self._run_here()

    def _defer(self) -> None:
        self._deferred = True
        self._schedule.turn.put(self._account, self._go_on_now)

    def _go_on_now(self) -> None:
        self._deferred = False
        if monotonic() >= self._deadline:
            self._late_here()
        elif self._pace.slow:
            self._fresh = True
            self._submit()
        else:
            self._run_here()

    def _late_here(self) -> None:
        """Ends a call whose deadline passed while it waited for a turn. It is in no queue and no worker now, so `_stop` has
        nothing to withdraw."""
        self._expire()
        self._leave(None)

    def _run_here(self) -> None:
        pace, schedule, instance = self._pace, self._schedule, self._instance
        schedule.mark()
        if not pace.unwatched:
            pace.began = thread_time()
        self._fresh = False
        began = monotonic()
        leased = instance.lease_if_scarce()
        instance.slice()
        outcome = self._poll(1)
        if leased:
            instance.settle()
        took = monotonic() - began
        if outcome.over or instance.wait is not None:
            schedule.ran(self._account, pace, took)
        else:
            schedule.missed(self._account, pace, took)
        self._follow(outcome)

    def _submit(self, *, counts: bool = False) -> None:
        self._in_worker = True
        self._instance.inline = False
        self._instance.epochs = LONG_SLICE
        self._schedule.workers.submit(self._account, self._work, counts=counts)

    def _returned(self, outcome: _Outcome) -> None:
        self._in_worker = False
        self._instance.inline = True
        self._instance.epochs = SLICE
        self._schedule.workers.done(self._account)
        self._spent += outcome.spent
        if outcome.over or self._instance.wait is not None:
            if self._fresh:
                self._pace.took_in_worker(self._spent)
            else:
                self._pace.took(self._spent)
            self._spent = 0.0  # what follows a wait is judged for itself
        self._follow(outcome)

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
            self._schedule.free(self._account, instance)
        if self.future.done() or outcome is None:
            return
        if isinstance(error, StoppedError) or (
            (error is None or isinstance(error, RefusalError)) and monotonic() >= self._deadline
        ):
            fail(self.future, DeadlineError(self._late))
        elif error is None:
            self.future.set_result(outcome.value)
        else:
            fail(self.future, error)

    # In a worker

    def _work(self) -> None:
        schedule = self._schedule
        began = thread_time()
        self._instance.lease()
        if self._instance.context:
            self._instance.slice()
        outcome = self._poll(_TURN)
        while not outcome.over and outcome.polls == _TURN and not schedule.workers.crowded:
            self._instance.settle()
            self._instance.lease()
            outcome = self._poll(_TURN)
        self._instance.settle()
        outcome = outcome._replace(spent=thread_time() - began)
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


def _raising(error: Exception) -> Callable[[], bytes]:
    def outcome() -> bytes:
        raise error

    return outcome
