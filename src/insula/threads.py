"""A few threads for blocking work that the event loop hands out, and the queue before them.

The system may refuse a thread: a limit on processes counts threads too. Then the work is done by the threads that are
there. Where there is none, the caller is refused and nothing of the work is left behind, so that all is well again once the
limit allows a thread. (`ThreadPoolExecutor` raises with the work already queued, to be done when nobody waits for it.)

The threads are daemons: one that cannot be stopped must not keep the process alive. The queue has no bound of its own; who
hands work out bounds it, by shares.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from insula.background import fail, thread, unheard
from insula.errors import UnavailableError

log = logging.getLogger("insula.threads")

T = TypeVar("T")


class _Work:
    __slots__ = ("call", "done", "future")

    def __init__(self, call: Callable[[], Any], future: asyncio.Future[Any], done: Callable[..., None]) -> None:
        self.call = call
        self.future = future
        self.done = done


class Threads:
    """At most `most` threads, made when they are needed, or all by `start`. One event loop uses them. They end after
    `close`, or when nobody has this object any more. Each calls `leave` when it ends."""

    def __init__(self, most: int, name: str, *, leave: Callable[[], object] | None = None) -> None:
        self._most = most
        self._name = name
        self._leave = leave
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._ended: list[asyncio.Future[None]] = []  # of each thread, done when it ends
        self._end = weakref.finalize(self, _ask_to_end, self._work, self._ended)
        self._end.atexit = False
        self._under_way = 0
        self._refused = False
        self._closed = False

    def start(self) -> None:
        """Makes all threads now, or as many as the system gives. On a busy machine the start of a thread takes
        milliseconds, and the event loop waits for it."""
        while len(self._ended) < self._most and self._add():
            pass

    def run(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """What `function` returns, when a thread has run it. Work that has not begun when its future is cancelled is not
        done. UnavailableError where the system gives no thread and there is none, and after `close`."""
        if self._closed:
            raise UnavailableError("the server is stopping", retry_after=1.0)
        if self._under_way >= len(self._ended) and len(self._ended) < self._most:
            self._add()
        if not self._ended:
            raise UnavailableError(
                "the system starts no more threads for the server",
                reason="no_threads",
                hint="the operator may raise the limit on processes, which counts threads (ulimit -u, pids.max)",
                retry_after=1.0,
            )
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._under_way += 1
        self._work.put(_Work(partial(function, *args), future, self._done))
        return future

    def close(self) -> None:
        """Each thread ends once the work that waits is done. Idempotent."""
        self._closed = True
        self._end()

    async def ended(self, seconds: float) -> bool:
        """Waits for the threads to end after `close`, so long at most; whether all have."""
        if self._ended:
            await asyncio.wait(self._ended, timeout=seconds)
        return all(each.done() for each in self._ended)

    def _done(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._under_way -= 1
        if future.done():
            unheard(error, f"work in a thread of {self._name}")
        elif error is not None:
            fail(future, error)
        else:
            future.set_result(result)

    def _add(self) -> bool:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        name = f"{self._name}-{len(self._ended) + 1}"
        try:
            thread(partial(_serve, loop, ended, self._work, self._leave), name).start()
        except RuntimeError as error:
            if not self._refused:
                log.warning(
                    "the thread %s: %s; the server goes on with the %d that it has (see ulimit -u, pids.max)",
                    name,
                    error,
                    len(self._ended),
                )
            self._refused = True
            return False
        self._refused = False
        self._ended.append(ended)
        return True


def _ask_to_end(work: queue.SimpleQueue[_Work | None], ended: list[asyncio.Future[None]]) -> None:
    for _ in ended:
        work.put(None)


# What a thread runs holds no `Threads`: it ends when that is gone.


def _serve(
    loop: asyncio.AbstractEventLoop,
    ended: asyncio.Future[None],
    jobs: queue.SimpleQueue[_Work | None],
    leave: Callable[[], object] | None,
) -> None:
    try:
        while (work := jobs.get()) is not None:
            result, error = _outcome(work)
            _tell(loop, partial(work.done, work.future, result, error))
            del work, result, error  # nothing is kept alive while the thread waits for the next
        if leave is not None:
            leave()
    finally:
        _tell(loop, partial(_set, ended))


def _outcome(work: _Work) -> tuple[Any, BaseException | None]:
    if work.future.cancelled():
        return None, None
    try:
        return work.call(), None
    except BaseException as error:
        return None, error


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed, and nobody waits
        loop.call_soon_threadsafe(call)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
