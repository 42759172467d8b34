"""Whether the calls of one method are quick: who may run on the event loop, and who goes to a thread at once.

A method starts on the loop. A slice is time of the clock, so on a busy machine a call of a microsecond meets the end of
one now and then: the first time that it happens the method is watched, and from then on it is the processor's time that
counts. Where that was spent twice in a row the method is slow: its calls go straight to threads, until so many of them in
a row were done within one slice; each relapse within a minute asks for twice as many. A helper export that runs out of the
slice makes it slow at once and for long, since a helper on the loop cannot be handed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Slices missed in a row that make a method slow, the first one uncounted: nobody had looked at the processor's time.
PATIENCE = 2

#: Processor time (s) without which a slice that is over says nothing of the guest.
SPENT = 0.002

#: Quick calls in a row that make it quick again: the first time, after a slow helper, and at most.
FEW = 8
MANY = 256
MOST = 4096

#: A relapse after so long (s) counts as the first time.
_FORGIVEN = 60.0


class Pace:
    """One a method. Belongs to the event loop; the fields are plain, for the sake of the hot path: `unwatched`, while the
    method is neither slow nor has missed a slice; `slow`; `misses`, until the next call that is done in time; `began`, the
    thread's processor time when a call of a watched method began."""

    __slots__ = ("_clock", "_needs", "_quick", "_slow_at", "began", "misses", "slow", "unwatched")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.unwatched = True
        self.slow = False
        self.misses = 0
        self.began = 0.0
        self._needs = FEW // 2
        self._quick = 0
        self._slow_at = 0.0
        self._clock = clock

    def in_time(self) -> None:
        """A call was done within its slice on the loop."""
        self.misses = 0
        self.unwatched = not self.slow

    def missed(self, spent: float) -> None:
        """A call was not done within its slice on the loop, of which it spent so much processor time (s)."""
        if self.misses and spent < SPENT:
            return
        self.misses += 1
        self.unwatched = False
        if not self.slow and self.misses > PATIENCE:
            self._slow_down(FEW)

    def was_slow(self) -> None:
        """A call in a thread was not done within its slice."""
        self._quick = 0

    def helper_overran(self) -> None:
        """A helper export held the loop for longer than its slice."""
        if not self.slow:
            self._slow_down(MANY)

    def was_quick(self) -> None:
        """A call in a thread was done within its slice."""
        self._quick += 1
        if self._quick >= self._needs:
            self.slow = False
            self.in_time()

    def _slow_down(self, least: int) -> None:
        now = self._clock()
        relapse = now - self._slow_at < _FORGIVEN
        self._needs = max(least, min(2 * self._needs, MOST) if relapse else least)
        self._slow_at = now
        self._quick = 0
        self.slow = True
        self.unwatched = False
