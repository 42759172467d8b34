"""The pace of one method: quick methods run on the event loop, slow ones in workers from their beginning.

A method starts on the loop, and the hot path only compares the clock before and after a call. The first call that takes
longer than `NOTE` makes the method watched: from then on it is the processor's time of each call that counts, host
functions included, since on a busy machine a call of a microsecond may take milliseconds of the clock. A method is slow
when the mean of its calls passes `SLOW`, and for long when one call took `LONG` or a helper export ran out of its slice.
A slow method is quick again after so many quick calls in a row; each relapse within a minute asks for twice as many.

A program that has had a slow method is suspect: the methods that are not slow begin in a worker as well, until a few calls
of each were quick. So a program with a thousand methods cannot hold the loop once with each of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: A call on the loop that took less of the clock (s) is not looked at.
NOTE = 0.00005
#: The mean processor time of its calls (s) from which a method is slow, and the time of a call in a worker that is quick.
SLOW = 0.0005
QUICK = 0.0003
#: Processor time (s) of a single call that makes its method slow for long.
LONG = 0.005
#: Processor time (s) without which a slice that is over says nothing of the guest.
SPENT = 0.001

#: Calls in a row below `NOTE` after which a method is no longer watched.
CALM = 16
#: Quick calls in a row that make a slow method quick again: usually, after a long call or helper, and at most.
FEW = 8
MANY = 256
MOST = 4096

#: A relapse after so long (s) counts as the first time.
_FORGIVEN = 60.0
#: The weight of the latest call in the mean.
_WEIGHT = 0.25


class Pace:
    """One a method; belongs to the event loop. `unwatched` and `slow` are plain fields, for the hot path. `began` is the
    loop thread's processor time (s) when a call of a watched method began. `slowed` is called when the method becomes
    slow."""

    __slots__ = (
        "_calm",
        "_clock",
        "_for_good",
        "_mean",
        "_needs",
        "_quick",
        "_slow_at",
        "began",
        "slow",
        "slowed",
        "unwatched",
    )

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.unwatched = True
        self.slow = False
        self.began = 0.0
        self._mean = 0.0
        self._calm = 0
        self._needs = FEW // 2
        self._quick = 0
        self._slow_at = 0.0
        self._for_good = False
        self.slowed: Callable[[], None] = lambda: None
        self._clock = clock

    def watch(self) -> None:
        """A call took longer than `NOTE` by the clock: the next ones are measured."""
        self.unwatched = False
        self._calm = 0

    def took(self, spent: float) -> None:
        """A call on the loop, or the part of one up to a wait, took so much processor time (s)."""
        self._mean += (spent - self._mean) * _WEIGHT
        if spent >= LONG:
            self._slow_down(MANY)
        elif self._mean > SLOW:
            self._slow_down(FEW)
        elif spent >= NOTE:
            self._calm = 0
        else:
            self._calm += 1
            if self._calm >= CALM and not self.slow:
                self.unwatched = True

    def missed(self, spent: float) -> None:
        """A call on the loop was not done within its slice, of which it took so much processor time (s)."""
        self.watch()
        if spent >= SPENT:
            self._slow_down(FEW)

    def took_in_worker(self, spent: float) -> None:
        """A call that a worker ran from its beginning took so much processor time (s)."""
        if spent >= LONG:
            self._needs = max(self._needs, MANY)
        self._quick = self._quick + 1 if spent < QUICK else 0
        if self.slow and self._quick >= self._needs and not self._for_good:
            self.slow = False
            self._mean = 0.0
            self.watch()

    def helper_overran(self) -> None:
        """A helper export held the loop for longer than its slice."""
        self._slow_down(MANY)

    def keep_slow(self) -> None:
        """The method never runs on the loop, however quick it is."""
        self._for_good = True
        self._slow_down(MANY)

    def suspect(self) -> None:
        """Another method of the program was slow: this one shows first, in a worker, that it is not."""
        if not self.slow:
            self._needs = max(self._needs, FEW)
            self._quick = 0
            self.slow = True
            self.unwatched = False

    def _slow_down(self, least: int) -> None:
        now = self._clock()
        if self.slow:
            self._needs = max(self._needs, least)
        else:
            relapse = now - self._slow_at < _FORGIVEN
            self._needs = max(least, min(2 * self._needs, MOST) if relapse else least)
        self._slow_at = now
        self._quick = 0
        was_slow, self.slow = self.slow, True
        self.unwatched = False
        if not was_slow:
            self.slowed()
