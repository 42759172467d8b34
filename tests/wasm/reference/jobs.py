"""One piece of work of a guest thread as the event loop sees it: an answer that comes in time, whatever the thread does.

The future is answered once, by whoever is first: the thread with its outcome, the timer with DeadlineError, `refuse`, or
the caller who cancels. In the last three cases the guest is stopped. The thread is out of the guest when `left` is called,
which may be later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from insula.errors import DeadlineError, InsulaError
from insula.wasm.faults import StoppedError

T = TypeVar("T")


class Job(Generic[T]):
    """`run` is for the thread, everything else for the loop. `late` is what DeadlineError says, `stop` makes the guest come
    out, `left` is called on the loop when it has, and `orphaned` in the thread where there is no loop any more."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[], T],
        *,
        seconds: float,
        late: str,
        stop: Callable[[], None],
        left: Callable[[], None],
        orphaned: Callable[[], None],
    ) -> None:
        self.future: asyncio.Future[T] = loop.create_future()
        self.future.add_done_callback(self._answered)
        self._timer = loop.call_later(seconds, self._expire)
        self._loop = loop
        self._work = work
        self._late = late
        self._stop = stop
        self._left = left
        self._orphaned = orphaned

    def run(self) -> None:
        """Does the work."""
        outcome: T | BaseException
        try:
            outcome = self._work()
        except BaseException as error:
            outcome = error
        try:
            self._loop.call_soon_threadsafe(self._deliver, outcome)
        except RuntimeError:
            self._orphaned()

    def refuse(self, error: InsulaError) -> None:
        """Answers with an error, and stops the guest."""
        if not self.future.done():
            self._stop()
            self.future.set_exception(error)

    def _expire(self) -> None:
        self.refuse(DeadlineError(self._late))

    def _answered(self, future: asyncio.Future[T]) -> None:
        self._timer.cancel()
        if future.cancelled():
            self._stop()

    def _deliver(self, outcome: T | BaseException) -> None:
        if self.future.cancelled():
            self._stop()  # before `left` asks whether the guest can be used again
        self._left()
        if self.future.done():
            return
        if isinstance(outcome, StoppedError):
            self.future.set_exception(DeadlineError(self._late))
        elif isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
