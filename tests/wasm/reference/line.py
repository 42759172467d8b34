"""The line between the thread that runs a guest and the event loop: waiting that can always be ended.

The thread sleeps and waits here alone, never for longer than the deadline, and `stop` (on the loop) ends whatever it
waits for at once. Everything that belongs to the loop (the awaitable of a host function, its task) stays on the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import time
from collections.abc import Awaitable
from typing import Any

from insula.errors import UnavailableError
from insula.wasm.faults import StoppedError


class Line:
    """One an instance. `deadline` (of `time.monotonic()`) is set before each job; once `stopped`, it stays so."""

    __slots__ = ("_loop", "_mail", "_task", "deadline", "stopped")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.deadline = 0.0
        self.stopped = False
        self._loop = loop
        self._task: asyncio.Future[Any] | None = None
        self._mail: queue.SimpleQueue[asyncio.Future[Any] | BaseException | None] = queue.SimpleQueue()

    # The loop's end

    def stop(self) -> None:
        """Ends every wait of the thread, now and from now on, and cancels what it waits for."""
        self.stopped = True
        self._mail.put(None)
        if self._task is not None:
            self._task.cancel()

    def _begin(self, awaitable: Awaitable[Any]) -> None:
        if self.stopped:
            discard(awaitable)
            return
        try:
            self._task = asyncio.ensure_future(awaitable)
        except (TypeError, ValueError) as error:
            self._mail.put(error)
        else:
            self._task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Future[Any]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # seen: the thread may be gone
        self._mail.put(task)

    # The thread's end

    def sleep(self, seconds: float) -> None:
        """Sleeps; StoppedError where it was stopped or the deadline came first."""
        left = self.deadline - time.monotonic()
        self._receive(min(seconds, left))
        if self.stopped or seconds > left:
            raise StoppedError

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """Runs an awaitable on the loop and gives its result or raises its error; StoppedError as `sleep`."""
        if self.stopped:
            discard(awaitable)
            raise StoppedError
        try:
            self._loop.call_soon_threadsafe(self._begin, awaitable)
        except RuntimeError:  # the loop is closed
            discard(awaitable)
            raise StoppedError from None
        mail = self._receive(self.deadline - time.monotonic())
        if not mail:
            raise StoppedError
        outcome = mail[0]
        if isinstance(outcome, BaseException):
            raise outcome
        try:
            return outcome.result()
        except asyncio.CancelledError:
            raise UnavailableError("the host cancelled what the guest waited for") from None

    def _receive(self, seconds: float) -> tuple[asyncio.Future[Any] | BaseException] | None:
        try:
            mail = self._mail.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        return None if mail is None else (mail,)


def discard(awaitable: Awaitable[Any]) -> None:
    """Drops an awaitable that nobody will await, without the warning that it never was."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()
    elif isinstance(awaitable, asyncio.Future):
        awaitable.cancel()
