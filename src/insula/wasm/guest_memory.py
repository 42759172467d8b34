"""The memory of all guests together, and its bound.

Each instance has a limit of its own. Thousands of instances times that limit is more than any machine has, and most never
come near it. So the memory that instances have is counted: an instance is weighed when it starts, when it is entered, at
the end of each slice, where it begins to wait, and in the turn after a call. Near the bound idle instances are closed
(`relieve`); at the bound none is started.

A guest can take all that it may have in one instruction, before anything is weighed. So the thread that runs one takes a
lease of the bytes by which it may grow, and gives it back when it comes out. While there is much, the lease is all that the
guest's own limit allows. While memory is scarce it is a part of what is left, and the store's limit is set to that: a
growth beyond it fails inside the guest. On the loop one guest runs at a time, so a lease is needed there only while memory
is scarce.

While memory is scarce a tenant may have `_TIMES` times as much as is left (the dynamic thresholds of shares.py): one alone
comes to four fifths of the whole. A small part is kept for each, however much the others take: `FLOOR` bytes, or its part
of half the whole where there are many. So a service can always start an instance and let it grow a bit.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from insula.errors import LimitError

#: Of the memory that there is, what guests may have where the operator says nothing.
SHARE = 3 / 4
#: Of what guests may have, where idle instances are closed, and how far down.
_SCARCE = 7 / 8
_EASE = 3 / 4
#: How many times as much as is left a tenant may have while memory is scarce.
_TIMES = 4
#: Bytes that each tenant may have, however much others have taken.
FLOOR = 16 << 20
#: The part of what is left that a lease may take while memory is scarce and others have leases.
_PART = 5


def whole_of_share(share: int) -> int:
    """Bytes that all guests must have so that one service can have `share` of them."""
    return -(-share * (1 + _TIMES) // _TIMES)


class Weighed(Protocol):
    """An instance that was run on the loop."""

    def weigh_idle(self) -> None:
        """Counts what it has, unless it is being run."""


class Tenant:
    """One program's share: `bytes` is the memory of its instances and the leases of those that run, `limit` that of one
    instance."""

    __slots__ = ("bytes", "limit")

    def __init__(self, limit: int = 0) -> None:
        self.bytes = 0
        self.limit = limit


class GuestMemory:
    """At most `most` bytes. `held` is what the instances have that are counted, `leased` by how much those that run may
    grow. `scarce` is a plain field, for the hot path: whether a guest on the loop needs a lease. `relieve` closes idle
    instances until its first argument answers True, of services that have at least so many bytes as the second says: none
    makes room for one that would then have more than it. Used by every thread that runs guests; `start`, `note`,
    `join`, `leave` and `relieve` are the loop's."""

    def __init__(self, most: int, loop: asyncio.AbstractEventLoop) -> None:
        self.most = most
        self.held = 0
        self.leased = 0
        self.scarce = False
        self.relieve: Callable[[Callable[[], bool], int], None] = lambda enough, least: None
        self._tenants: set[Tenant] = set()
        self._largest = 0  # limit of all tenants
        self._floor = FLOOR
        self._kept = 0  # what tenants have less than the floor, together
        self._loop = loop
        self._lock = threading.Lock()
        self._asked = False
        self._leases = 0
        self._ran: list[Weighed] = []

    @property
    def share(self) -> int:
        """Bytes that one tenant can come to, where no other has any."""
        return self.most * _TIMES // (1 + _TIMES)

    def join(self, tenant: Tenant) -> None:
        """There may be instances of this tenant from now on."""
        with self._lock:
            self._tenants.add(tenant)
            self._settle_floor()

    def leave(self, tenant: Tenant) -> None:
        """There are no new instances of this tenant any more. Idempotent."""
        with self._lock:
            self._tenants.discard(tenant)
            self._settle_floor()

    def _settle_floor(self) -> None:
        self._largest = max((one.limit for one in self._tenants), default=0)
        self._floor = min(FLOOR, self.most // (2 * max(1, len(self._tenants))))
        self._kept = sum(self._lacks(one) for one in self._tenants)
        self._look()

    def _lacks(self, tenant: Tenant) -> int:
        """What is kept for a tenant that has less than the floor."""
        return max(0, self._floor - tenant.bytes) if tenant in self._tenants else 0

    def _add(self, tenant: Tenant, by: int) -> None:
        before = self._lacks(tenant)
        tenant.bytes += by
        self._kept += self._lacks(tenant) - before

    def start(self, size: int, tenant: Tenant) -> None:
        """Before an instance is made that begins with `size` bytes; LimitError where its tenant may not have as much."""
        if not self._fits(size, tenant):
            self.relieve(lambda: self._fits(size, tenant), tenant.bytes + size)
            if not self._fits(size, tenant):
                raise self.refusal()

    def _fits(self, size: int, tenant: Tenant) -> bool:
        if size <= self._lacks(tenant) and self.held + size <= self.most:
            return True  # it is kept for it, and the leases of others come to an end
        return self.held + self.leased + size <= self.most and (not self.scarce or self._allowed(tenant) >= size)

    def _allowed(self, tenant: Tenant) -> int:
        """How much more a tenant may have while memory is scarce: then it has `_TIMES` times as much as is left."""
        left, lacks = self.most - self.held - self.leased, self._lacks(tenant)
        fair = (_TIMES * (left - self._kept + lacks) - tenant.bytes) // (1 + _TIMES)
        return max(0, fair, min(left, lacks))

    @property
    def most_of_one(self) -> int:
        """Bytes that one tenant may come to, where all others have nothing."""
        return _TIMES * (self.most - self._floor * max(0, len(self._tenants) - 1)) // (1 + _TIMES)

    def change(self, by: int, tenant: Tenant, *, out_of_lease: int = 0) -> bool:
        """Counts what an instance has more, or less, of which so much is taken out of its lease. False where all
        instances have more than they may, and those of its tenant more than what is kept for each."""
        with self._lock:
            self.held += by
            self.leased -= out_of_lease
            self._add(tenant, by - out_of_lease)
            self._look()
            low = by > 0 and self.held > self.most * _SCARCE and not self._asked
            self._asked = self._asked or low
        if low:
            self._loop.call_soon_threadsafe(self._relieve, tenant)
        return not self.is_over(tenant)

    def is_over(self, tenant: Tenant) -> bool:
        """Whether all instances have more than they may, and those of this tenant more than what is kept for each."""
        return self.held > self.most and not self._lacks(tenant)

    def lease(self, wanted: int, tenant: Tenant, *, starts: bool = False) -> int:
        """The bytes, at most `wanted`, by which a guest may grow that is about to run. One that starts needs few, and
        leaves the large part to one that is called."""
        with self._lock:
            left = self.most - self.held - self.leased
            if left - wanted >= self._largest:
                granted = wanted
            else:
                granted = min(wanted, self._allowed(tenant))
                if starts or self._leases:
                    granted = min(granted, max(0, left // _PART, min(left, self._lacks(tenant))))
            self._leases += not starts
            self.leased += granted
            self._add(tenant, granted)
            self._look()
            return granted

    def settle(self, granted: int, tenant: Tenant, *, starts: bool = False) -> None:
        """Gives a lease back, once the guest has come out and was weighed."""
        with self._lock:
            self._leases -= not starts
            self.leased -= granted
            self._add(tenant, -granted)
            self._look()

    def note(self, instance: Weighed) -> None:
        """An instance is run on the loop: it is weighed in the next turn, also if nobody enters it again."""
        if not self._ran:
            self._loop.call_soon(self._weigh_ran)
        self._ran.append(instance)

    def _weigh_ran(self) -> None:
        ran, self._ran = self._ran, []
        for instance in ran:
            instance.weigh_idle()

    def _look(self) -> None:
        self.scarce = self.most - self.held - self.leased < 2 * self._largest

    def _relieve(self, tenant: Tenant) -> None:
        self._asked = False
        self.relieve(lambda: self.held <= self.most * _EASE, tenant.bytes)

    def refusal(self) -> LimitError:
        """The error for a guest that needs more."""
        return LimitError(
            f"the guests of this server have {self.held >> 20} MiB of memory together, and at most {self.most >> 20} MiB; "
            f"one service may have {self.most_of_one >> 20} MiB of that, and less while others have much",
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
