"""How the interpreter of a process of our own is set: its garbage collector, and how its threads take turns.

Nearly everything that a call makes goes with its last reference, so the collector finds next to nothing. What it costs is
the look at young objects: half a microsecond each, in one go, on the event loop. So it looks at a few thousand at a time,
two milliseconds. Objects that live on, some twenty for each call that waits, are looked at once more after millions. It
rests during imports.

A thread that runs Python gives the interpreter to another one after `SWITCH` seconds. The event loop asks for it again
after each system call and each guest, so the interpreter's own 5 ms would add up to many times as much in one turn beside a
thread that works.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Objects more than there were when the youngest are looked at, and how many looks at one generation are one at the next.
THRESHOLDS = (700, 5, 1_000)
#: Seconds.
SWITCH = 0.0002


def serving() -> None:
    """From now on the collector looks at few objects at a time, and seldom at old ones, and threads take short turns."""
    gc.set_threshold(*THRESHOLDS)
    sys.setswitchinterval(SWITCH)


@contextmanager
def importing() -> Iterator[None]:
    """The collector rests inside, and afterwards passes over all there is: modules, classes and functions stay anyway. One
    that was switched off stays off."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if on:
            gc.enable()
