"""How the interpreter of a process of our own is set: its garbage collector, and how its threads take turns.

Nearly everything that a call makes goes with its last reference, so the collector finds next to nothing. What it costs is
the look at young objects: half a microsecond each, in one go, with the interpreter held, in whichever thread makes the
object too many. Left alone it waits until so many more were made than freed: where a thousand calls end as a thousand
others begin, that is never, and then a look is at all there is, tens of milliseconds. So while requests come it looks every
few milliseconds, and each object is looked at once; what lives on is looked at again after a minute of that at the soonest,
since it takes some 50 ms. So nothing that is large, or made for each request or connection, may be in a circle. It rests
during imports.

A thread that runs Python gives the interpreter to another one after `SWITCH` seconds. The event loop asks for it again
after each system call and each guest, so the interpreter's own 5 ms would add up to many times as much in one turn beside a
thread that works.
"""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Objects more than there were when the youngest are looked at, and how many looks at one generation are one at the next.
THRESHOLDS = (700, 5, 12_000)
#: Seconds between two looks while requests come.
LOOK = 0.005
#: One look of so many is at everything, a minute of load apart at the soonest. The interpreter alone would wait until there
#: are a quarter more old objects, and what each deploy leaves would stay for long.
EVERY = 12_000
#: Seconds.
SWITCH = 0.0002

_looks = itertools.count(1)


def serving() -> None:
    """From now on the collector looks at few objects at a time, and seldom at old ones, and threads take short turns."""
    gc.set_threshold(*THRESHOLDS)
    sys.setswitchinterval(SWITCH)


def look_at_young_objects() -> None:
    """Collects what is young, and every so often all there is, unless the collector is off."""
    if gc.isenabled():
        gc.collect(2 if next(_looks) % EVERY == 0 else 1)


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
