"""When the garbage collector of a process of our own runs: never during imports, and seldom while calls wait.

Nearly everything that a call makes goes with its last reference. A thousand calls that wait are some twenty thousand
objects that all live; the interpreter's own threshold has them looked at again and again, for a third of their time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: Objects more than there were when the youngest are looked at, and how many looks at one generation are one at the next.
THRESHOLDS = (50_000, 20, 20)


def serving() -> None:
    """From now on young objects are looked at more seldom."""
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
