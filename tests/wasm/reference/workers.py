"""A bounded number of threads that run guests, started as they are needed.

They are daemons: a thread that cannot be stopped must not keep the process alive. Counting is done on the event loop
alone, so there is no lock; `done` is called there for each job that has come back.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable

from insula.errors import LimitError

log = logging.getLogger("insula.wasm")


class Workers:
    """At most `threads` jobs run and at most `backlog` wait."""

    def __init__(self, threads: int, backlog: int) -> None:
        self.busy = 0
        self._most = threads
        self._room = threads + backlog
        self._idle: asyncio.Event | None = None
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def check_room(self) -> None:
        """LimitError where as many jobs wait as may."""
        if self.busy >= self._room:
            raise LimitError("the server runs as many guests as it can", hint="try again in a moment", retry_after=1.0)

    def submit(self, job: Callable[[], None]) -> None:
        """Runs a job, which does not raise, in a thread; `check_room` was asked before."""
        self.busy += 1
        self._put(job)

    def done(self) -> None:
        """One job that was submitted has come back."""
        self.busy -= 1
        if self._idle is not None and not self.busy:
            self._idle.set()

    def tidy(self, job: Callable[[], None]) -> None:
        """Runs a short job that gives something back: it is never refused, and not counted."""
        self._put(job)

    async def idle(self, seconds: float) -> bool:
        """Waits, so long at most, until no job is out; whether that is so."""
        if self.busy:
            self._idle = asyncio.Event()
            try:
                await asyncio.wait_for(self._idle.wait(), seconds)
            except TimeoutError:
                return False
        return True

    def close(self) -> None:
        """Asks every thread to end when it has done what is there."""
        for _ in self._threads:
            self._jobs.put(None)

    def join(self, seconds: float) -> None:
        """Waits for the threads to end, so long at most. Blocks."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _put(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        if len(self._threads) < min(self._most, max(1, self.busy)):
            thread = threading.Thread(target=self._work, name=f"insula-guest-{len(self._threads) + 1}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException:
                log.exception("a job of a guest thread failed")
            del job  # nothing is kept alive while the thread waits for the next
