"""The clock that ends a guest's slice of time: one thread a process, which moves the epoch while guests run.

It ticks while `used` is set again and again, and sleeps when it has not been for a while. A thread that is about to run a
guest first sets `used` and then looks at `asleep`; the ticker first sets `asleep` and then looks at `used`: one of the two
sees the other, so that no guest ever runs without a clock.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

from insula.background import thread

#: Seconds between two epochs, and how many pass without use before the ticker sleeps.
PERIOD = 0.0025
_PATIENCE = 80


class Ticker:
    """Calls `tick` once a period. `used`, `asleep` and `epoch` (how often it has ticked) are plain fields, for the sake
    of the hot path."""

    def __init__(self, tick: Callable[[], object], sleep: Callable[[float], object] = time.sleep) -> None:
        self.used = False
        self.asleep = True
        self.epoch = 0
        self._tick = tick
        self._sleep = sleep
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        thread(self._run, "insula-epoch").start()

    def wake(self) -> None:
        """Where `asleep` was seen after `used` was set."""
        self.asleep = False
        self._bell.put(None)

    def _run(self) -> None:
        while True:
            self._bell.get()
            self._work()

    def _work(self) -> None:
        idle = 0
        while idle < _PATIENCE:
            self._sleep(PERIOD)
            self._tick()
            self.epoch += 1
            if self.used:
                self.used = False
                idle = 0
            else:
                idle += 1
        self.asleep = True
        if self.used:
            self.wake()
