"""The memory of all guests together, and its bound.

What one instance may have is its own limit; thousands of instances times that limit is more than any machine has, and most
of them never come near it. So what is counted is what they have. An instance is weighed when it starts, when it is entered,
at the end of each slice of its time and of a call that took more than one; never by a call that is quick. Near the bound
idle instances are asked for (`relieve`); at the bound none is started, and one that has grown during its call is ended.
Between two looks a guest touches what it can in one slice, and by so much the bound may be passed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

from insula.errors import LimitError

#: Of the memory that there is, what guests may have where nobody says.
SHARE = 3 / 4
#: Of what guests may have, where idle instances are asked for, and how far down.
_SCARCE = 7 / 8
_EASE = 3 / 4


class GuestMemory:
    """At most `most` bytes. `held` is what the instances have that are counted. `relieve` closes idle instances until what
    it is given says that it is enough. Used by every thread that runs guests; `start` and `relieve` are the loop's."""

    def __init__(self, most: int, loop: asyncio.AbstractEventLoop) -> None:
        self.most = most
        self.held = 0
        self.relieve: Callable[[Callable[[], bool]], None] = lambda enough: None
        self._loop = loop
        self._lock = threading.Lock()
        self._asked = False

    def start(self, size: int) -> None:
        """Before an instance is made that begins with `size` bytes; LimitError where there is no room for it."""
        if self.held + size > self.most:
            self.relieve(lambda: self.held + size <= self.most)
            if self.held + size > self.most:
                raise self.refusal()

    def change(self, by: int) -> bool:
        """Counts what an instance has more, or less; whether all of it is within the bound."""
        with self._lock:
            self.held += by
            scarce = by > 0 and self.held > self.most * _SCARCE and not self._asked
            self._asked = self._asked or scarce
        if scarce:
            self._loop.call_soon_threadsafe(self._relieve)
        return self.held <= self.most

    def _relieve(self) -> None:
        self._asked = False
        self.relieve(lambda: self.held <= self.most * _EASE)

    def refusal(self) -> LimitError:
        """What whoever wants more is told."""
        return LimitError(
            f"the guests of this server have {self.held >> 20} MiB of memory together, and at most {self.most >> 20} MiB",
            reason="guest_memory",
            hint="try again; the operator may raise limits.guest_memory_mb, or give the server fewer guests",
            retry_after=1.0,
        )


def machine_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process can have at most: of the machine, or of the container or unit that it runs in."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # a system without them
        groups = []
    place = root / "sys/fs/cgroup"
    for line in groups:
        _, controllers, path = line.split(":", 2)
        inner = place / path.strip("/")
        if not controllers:  # version 2; a bound of any group above holds as well
            found += [
                _bound(folder / "memory.max") for folder in (inner, *inner.parents) if folder.is_relative_to(place)
            ]
        elif "memory" in controllers.split(","):
            found += [_bound(place / "memory" / path.strip("/") / "memory.limit_in_bytes")]
            found += [_bound(place / "memory" / "memory.limit_in_bytes")]
    return min(size for size in found if size)


def _bound(file: Path) -> int:
    """The number in the file of a control group; 0 where there is none, or it says `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
