"""When an instance that failed to start may be tried again.

After the n-th failure in a row the next start waits `FIRST * 2**(n-1)` seconds, at most `LONGEST`, of which a random half
is taken off, so that a hundred services that failed together do not come back together. One start that succeeds ends the
back-off. While it lasts one start is tried at a time.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from insula.services.clock import Clock

FIRST = 0.1
LONGEST = 30.0


class Supervisor:
    """Counts the failures in a row and says how long to wait. `jitter` gives a number from 0 to 1."""

    def __init__(self, clock: Clock, jitter: Callable[[], float] = random.random) -> None:
        self.failures = 0
        self._clock = clock
        self._jitter = jitter
        self._not_before = 0.0

    def failed(self) -> float:
        """Notes a failed start; the seconds until the next one may be tried."""
        self.failures += 1
        longest = min(FIRST * 2.0 ** min(self.failures - 1, 20), LONGEST)
        delay = longest * (1 - self._jitter() / 2)
        self._not_before = self._clock.now() + delay
        return delay

    def succeeded(self) -> None:
        """Notes a start that worked."""
        self.failures = 0

    def wait(self) -> float:
        """Seconds until a start may be tried; 0 where it may now."""
        return max(0.0, self._not_before - self._clock.now()) if self.failures else 0.0
