"""A bounded number of threads that run guests, shared out fairly among the programs.

Each program has a lane. A lane has at most its share of the threads at once, and its jobs wait in order; the lanes with
jobs that may run take turns. So a program whose guests burn all the time that they get slows itself, and no other.

The event loop alone counts and hands out, so there is no lock; a job that is over says so there (`done`). The threads
are daemons: one that cannot be stopped must not keep the process alive.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from insula.errors import LimitError

log = logging.getLogger("insula.wasm")


class Lane:
    """The jobs of one program."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[Callable[[], None]] = deque()


class Workers:
    """At most `threads` jobs run, `share` of one lane, and at most `backlog` wait. `crowded`: some wait that could run."""

    def __init__(self, threads: int, backlog: int, share: int) -> None:
        self.busy = 0
        self.crowded = False
        self._most = threads
        self._share = share
        self._backlog = backlog
        self._waiting = 0
        self._running = 0
        self._ready: OrderedDict[Lane, None] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def check_room(self) -> None:
        """LimitError where as many jobs wait as may."""
        if self._waiting >= self._backlog:
            raise LimitError("the server runs as many guests as it can", hint="try again in a moment", retry_after=1.0)

    def submit(self, lane: Lane, job: Callable[[], None]) -> None:
        """Runs a job, which does not raise, in a thread when it is its turn."""
        self.busy += 1
        self._waiting += 1
        lane.waiting.append(job)
        if lane.running < self._share:
            self._ready[lane] = None
        self._hand_out()

    def done(self, lane: Lane) -> None:
        """One job of the lane has come back."""
        self.busy -= 1
        self._running -= 1
        lane.running -= 1
        if lane.waiting:
            self._ready[lane] = None
        self._hand_out()

    def withdraw(self, lane: Lane, job: Callable[[], None]) -> bool:
        """Takes back a job that has not begun; False where it has."""
        try:
            lane.waiting.remove(job)
        except ValueError:
            return False
        self.busy -= 1
        self._waiting -= 1
        if not lane.waiting:
            self._ready.pop(lane, None)
        self._hand_out()
        return True

    def tidy(self, job: Callable[[], None]) -> None:
        """Runs a short job that gives something back: it is never refused, and not counted."""
        self._put(job)

    def close(self) -> None:
        """Asks every thread to end when it has done what is there."""
        for _ in self._threads:
            self._jobs.put(None)

    def join(self, seconds: float) -> None:
        """Waits for the threads to end, so long at most. Blocks."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _hand_out(self) -> None:
        while self._ready and self._running < self._most:
            lane, _ = self._ready.popitem(last=False)
            job = lane.waiting.popleft()
            lane.running += 1
            self._running += 1
            self._waiting -= 1
            if lane.waiting and lane.running < self._share:
                self._ready[lane] = None
            self._put(job)
        self.crowded = self._waiting > 0

    def _put(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        if len(self._threads) < min(self._most, max(1, self._running)):
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
