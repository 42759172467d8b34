"""An instance whose memory is counted: when it is weighed, and the leases by which it may grow (guest_memory.py has the
policy)."""

from __future__ import annotations

from insula.errors import InsulaError
from insula.wasm.guest_memory import GuestMemory, Tenant
from insula.wasm.native.cell import Cell
from insula.wasm.native.template import Template


class Weighed(Cell):
    """`inline`: it runs on the event loop, as it does wherever no worker has it. `leased`: it may grow to less than its own
    limit, since the memory of all guests is scarce. `alive`: it may be entered. `epoch` is that of the last entry."""

    __slots__ = (
        *("_entered_with", "_lease", "_leased_to_start", "_memory_of_all", "_over", "_tenant", "_weight"),
        *("alive", "epoch", "inline", "leased"),
    )

    def __init__(self, template: Template, memory_of_all: GuestMemory, tenant: Tenant) -> None:
        super().__init__(template)
        self._memory_of_all = memory_of_all
        self._tenant = tenant
        self._weight = 0
        self._entered_with = 0
        self._lease = 0
        self._leased_to_start = False
        self._over = False  # it took what no guest had left, and nobody saw it in time
        self.leased = False
        self.alive = True
        self.inline = True
        self.epoch = -1

    def lease(self) -> None:
        """Before it runs: takes the bytes by which it may grow, and bounds its memory by them where they are few. A start
        keeps its lease to its end, since its memory cannot be looked at before."""
        if self.lost and self._lease:
            return
        self._weighs(self.size() or self._weight)
        wanted = max(0, self.template.memory_bytes - self._weight)
        self._lease = self._memory_of_all.lease(wanted, self._tenant, starts=self.lost)
        self._leased_to_start = self.lost
        few = self._lease < wanted
        if few or self.leased:
            self.leased = few
            self.limit_memory(self._weight + self._lease)

    def lease_if_scarce(self) -> bool:
        """On the loop, where one guest runs at a time, a lease is taken while memory is scarce. Whether `settle` is due."""
        if self._memory_of_all.scarce or self.leased:
            self.lease()
            return True
        return False

    def weigh_waiting(self) -> InsulaError | None:
        """Counts the memory that it has, where it begins to wait for the host. The error to end it with where it has grown,
        and all guests have more than they may: what it has taken it could use once it goes on."""
        size = self.size() or self._weight
        return None if size == self._weight or self._weighs(size) else self._memory_of_all.refusal()

    def weigh_idle(self) -> None:
        """Counts the memory that it has, in the turn after a call on the loop. Where all guests have too much by what it
        has taken, it is not entered again."""
        if self.alive and self.inline and not self.yields:
            size = self.size()
            if size > self._weight and not self._weighs(size):
                self._over = True
                self.epoch = -1

    def _is_over(self) -> bool:
        self._over = self._memory_of_all.is_over(self._tenant)
        return self._over

    def settle(self) -> None:
        """After it ran: is weighed, and gives back the bytes by which it did not grow. A bound by few bytes ends with their
        lease: the next time there may be more."""
        if self.lost and self.alive:
            return
        self._weighs(self.size() or self._weight)
        self._give_back()
        if self.leased:
            self.leased = False
            self.limit_memory(self.template.memory_bytes)

    def _give_back(self) -> None:
        granted, self._lease = self._lease, 0
        self._memory_of_all.settle(granted, self._tenant, starts=self._leased_to_start)

    def weigh(self) -> None:
        """LimitError where it has grown and all guests have more than they may."""
        size = self.size() or self._weight
        if size != self._weight and not self._weighs(size) and size > self._entered_with:
            raise self._memory_of_all.refusal()

    def _weighs(self, size: int) -> bool:
        """Counts the memory that it has. False if all guests together have more than they may."""
        by, self._weight = size - self._weight, size
        if not by:
            return True
        grown = max(0, min(by, self._lease))
        self._lease -= grown
        return self._memory_of_all.change(by, self._tenant, out_of_lease=grown)
