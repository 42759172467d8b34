"""When the garbage collector of a process of our own runs: never during imports, and little at a time while calls wait.

Nearly everything that a call makes goes with its last reference, so the collector finds next to nothing. What it costs is
the look at young objects: half a microsecond each, in one go, on the event loop. So it looks at a few thousand at a time,
two milliseconds. Objects that live on, some twenty for each call that waits, are looked at once more after millions.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: Objects more than there were when the youngest are looked at, and how many looks at one generation are one at the next.
THRESHOLDS = (4_000, 1_000, 50)


def serving() -> None:
    """From now on the collector looks at few objects at a time, and seldom at old ones."""
    gc.set_threshold(*THRESHOLDS)


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
