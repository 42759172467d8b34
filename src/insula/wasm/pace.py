"""Whether the calls of one method are quick: who may run on the event loop, and who goes to a thread at once.

A method starts on the loop. Twice in a row out of its slice there, and it is slow: its calls go straight to threads, until
so many of them in a row were done within one slice; each relapse within a minute asks for twice as many. A helper export
that runs out of the slice makes it slow at once and for long, since a helper on the loop cannot be handed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Slices missed in a row that make a method slow.
PATIENCE = 2

#: Quick calls in a row that make it quick again: the first time, after a slow helper, and at most.
FEW = 8
MANY = 256
MOST = 4096

#: A relapse after so long (s) counts as the first time.
_FORGIVEN = 60.0


class Pace:
    """One a method. Belongs to the event loop; `slow` and `misses` are plain fields, for the sake of the hot path."""

    __slots__ = ("_clock", "_needs", "_quick", "_slow_at", "misses", "slow")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.slow = False
        self.misses = 0
        self._needs = FEW // 2
        self._quick = 0
        self._slow_at = 0.0
        self._clock = clock

    def missed(self) -> None:
        """A call was not done within its slice."""
        self.misses += 1
        self._quick = 0
        if not self.slow and self.misses >= PATIENCE:
            self._slow_down(FEW)

    def helper_overran(self) -> None:
        """A helper export held the loop for longer than its slice."""
        self._quick = 0
        if not self.slow:
            self._slow_down(MANY)

    def was_quick(self) -> None:
        """A call in a thread was done within its slice."""
        self._quick += 1
        if self._quick >= self._needs:
            self.slow = False
            self.misses = 0

    def _slow_down(self, least: int) -> None:
        now = self._clock()
        relapse = now - self._slow_at < _FORGIVEN
        self._needs = max(least, min(2 * self._needs, MOST) if relapse else least)
        self._slow_at = now
        self.slow = True
