"""Background tasks and threads. Nobody awaits them, so their errors are logged when they end.

asyncio reports the error of a forgotten task only when the task is collected, which never happens to one that is held. A
thread that dies writes to standard error, which is not the log.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from insula.errors import InsulaError, forget_frames

log = logging.getLogger("insula.background")

T = TypeVar("T")
F = TypeVar("F", bound="asyncio.Future[Any]")


def told(future: F, what: str, *, endless: bool = False) -> F:
    """Logs the error of a future when it ends, and returns the future. A cancellation is no error. `what` names the work in
    the log (`the sweep of the depot`). If the work is `endless`, its end is logged as an error too."""

    def over(future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            log.error("%s failed", what, exc_info=error)
        elif endless:
            log.error("%s ended, and it should not", what)

    future.add_done_callback(over)
    return future


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Ends a future with an error. A future keeps the frames that its error came through, and is mostly among their
    variables, with the body that was refused: the frames of a refusal (InsulaError) tell nothing, and are let go first."""
    if isinstance(error, InsulaError):
        forget_frames(error)
    future.set_exception(error)


def unheard(error: BaseException | None, what: str) -> None:
    """Logs the error of work whose caller has left. A refusal (InsulaError) concerned the caller alone."""
    if error is None:
        return
    if not isinstance(error, InsulaError):
        log.error("%s failed after its caller had left", what, exc_info=error)
    forget_frames(error)


class Tasks:
    """The background tasks of one owner: held until they end, and their errors logged."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Runs a coroutine as a task."""
        task = told(asyncio.create_task(work, name=what), what)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def ended(self, timeout: float) -> bool:
        """Waits until no task is left, `timeout` seconds at most; whether that is so."""
        end = asyncio.get_running_loop().time() + timeout
        while self._running and (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._running, timeout=left)
        return not self._running


async def carried_through(work: Coroutine[Any, Any, T], what: str) -> T:
    """Runs work to its end even if the caller is cancelled, and returns its result. After a cancellation the error of the
    work is logged, and CancelledError is raised once the work has ended."""
    task = asyncio.create_task(work, name=what)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        told(task, what)
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise


def thread(target: Callable[[], object], name: str) -> threading.Thread:
    """A daemon thread, not yet started, whose unexpected end is logged."""

    def run() -> None:
        try:
            target()
        except BaseException:
            log.exception("the thread %s ended, and it should not", name)

    return threading.Thread(target=run, name=name, daemon=True)
