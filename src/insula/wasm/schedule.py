"""What the calls of one engine share: its loop, workers and clock, the guest time of a turn, and the end of instances."""

from __future__ import annotations

import asyncio
import time
from time import monotonic, thread_time
from typing import Any

from insula.wasm.instance import LiveInstance
from insula.wasm.machine import UNTIDY, machine
from insula.wasm.pace import LONG, NOTE, Pace
from insula.wasm.ticker import Ticker
from insula.wasm.turn import Turn
from insula.wasm.workers import Account, Workers

#: A guest with more memory than this (bytes) is freed in a thread: giving it back takes the kernel a while.
_LARGE = 4 << 20


class Schedule:
    """What the calls of one engine share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, workers: Workers, ticker: Ticker) -> None:
        self.loop = loop
        self.workers = workers
        self.ticker = ticker
        self.turn = Turn(loop)
        self.instances = 0
        self.running = 0
        self.tasks: set[asyncio.Future[Any]] = set()
        self._untidy = 0
        self._most = machine().sizes.instances + UNTIDY
        self._changed: asyncio.Event | None = None
        self._marked = -1
        self._mark = 0.0

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
        """Wakes a coroutine that waits in `idle`."""
        if self._changed is not None:
            self._changed.set()

    def tick(self) -> None:
        """Before a guest runs: the clock goes."""
        ticker = self.ticker
        ticker.used = True
        if ticker.asleep:
            ticker.wake()

    def mark(self) -> None:
        """Notes the loop thread's processor time, once an epoch."""
        if self._marked != self.ticker.epoch:
            self._marked = self.ticker.epoch
            self._mark = thread_time()

    def spent(self, took: float) -> float:
        """The processor time (s) of a call that took so long by the clock and was not measured: an upper bound, since what
        the loop did before it in this epoch counts too."""
        return min(took, thread_time() - self._mark)

    def ran(self, account: Account, pace: Pace, took: float) -> None:
        """A call on the loop is done, or waits, after so much time (s) of the clock."""
        self.turn.add(account, took)
        if not pace.unwatched:
            pace.took(thread_time() - pace.began)
        elif took >= LONG and (spent := self.spent(took)) >= LONG:
            pace.took(spent)
        elif took >= NOTE:
            pace.watch()

    def missed(self, account: Account, pace: Pace, took: float) -> None:
        """A call on the loop was not done within its slice."""
        self.turn.add(account, took)
        pace.missed(self.spent(took) if pace.unwatched else thread_time() - pace.began)

    def free(self, account: Account, instance: LiveInstance) -> None:
        """Frees an instance that nobody is in; in a thread where that takes a while, or where many are freed at once."""
        if self.instances + self._untidy < self._most and (instance.size() > _LARGE or self.turn.full):
            self._untidy += 1
            self.workers.tidy(lambda: self._tidied(instance))
        else:
            began = monotonic()
            instance.free()
            self.turn.add(account, monotonic() - began)

    def _tidied(self, instance: LiveInstance) -> None:
        instance.free()
        try:
            self.loop.call_soon_threadsafe(self._less)
        except RuntimeError:  # the loop is closed
            return

    def _less(self) -> None:
        self._untidy -= 1
