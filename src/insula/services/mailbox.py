"""The calls that wait for an instance: a bounded queue in order of arrival.

A call leaves the mailbox by one of four doors: an instance takes it, its deadline passes, its caller cancels it, or
the service stops. The deadlines stand in a heap beside the queue with one timer for the earliest; what has left the
queue by another door stays in the heap until it is met or until half of the heap is such, and is then swept out.

Thousands of calls may have one deadline. A bounded number of them is told of it in a turn of the loop, the rest in the
turns that follow; `take` puts those that it meets into `_late`, where they wait for theirs.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import count

from insula.calls import Call, Reply
from insula.services.clock import Clock, Timer
from insula.wasm.contract import Runner

_SWEEP_ABOVE = 64

#: How many calls are told that their deadline passed before the event loop gets its turn.
BATCH = 64


class Ticket:
    """One call that was not answered at once: what the caller holds (`pending`) and what runs for it (`running`)."""

    __slots__ = ("call", "pending", "run", "running", "since")

    def __init__(self, call: Call, run: Runner, pending: asyncio.Future[Reply], since: float) -> None:
        self.call = call
        self.run = run
        self.pending = pending
        self.since = since
        self.running: asyncio.Future[bytes] | None = None


class Mailbox:
    """At most `bound` tickets, in `queue` by age. `expired` is told of each ticket whose deadline passed here, once it has
    been removed."""

    def __init__(self, bound: int, clock: Clock, expired: Callable[[Ticket], None]) -> None:
        self.bound = bound
        self._clock = clock
        self._expired = expired
        self.queue: OrderedDict[Ticket, None] = OrderedDict()
        self._late: deque[Ticket] = deque()
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._number = count()
        self._timer: Timer | None = None
        self._timer_at = 0.0

    def __len__(self) -> int:
        return len(self.queue)

    @property
    def full(self) -> bool:
        return len(self.queue) >= self.bound

    def put(self, ticket: Ticket) -> None:
        """Adds a ticket at the end; the caller has seen that the mailbox is not full."""
        self.queue[ticket] = None
        deadline = ticket.call.deadline
        heapq.heappush(self._deadlines, (deadline, next(self._number), ticket))
        if self._timer is None or deadline < self._timer_at:
            self._arm()

    def take(self) -> Ticket | None:
        """The ticket that has waited longest and that somebody still waits for; None where there is none."""
        now, found = self._clock.now(), None
        while self.queue:
            ticket, _ = self.queue.popitem(last=False)
            if ticket.pending.done():
                continue
            if ticket.call.deadline > now:
                found = ticket
                break
            self._late.append(ticket)  # its timer is due
        self._sweep()
        return found

    def remove(self, ticket: Ticket) -> bool:
        """Takes out one ticket, wherever it stands; False where it had left already."""
        if ticket not in self.queue:
            return False
        del self.queue[ticket]
        self._sweep()
        return True

    def clear(self) -> list[Ticket]:
        """Takes out every ticket, tells those that are late already, and stops the timer."""
        while self._late:
            self._expired(self._late.popleft())
        tickets = list(self.queue)
        self.queue.clear()
        self._sweep()
        return tickets

    def _sweep(self) -> None:
        if not self.queue:
            self._deadlines.clear()
            if not self._late:
                self._disarm()
        elif len(self._deadlines) > _SWEEP_ABOVE + 2 * len(self.queue):
            self._deadlines = [item for item in self._deadlines if item[2] in self.queue]
            heapq.heapify(self._deadlines)

    def _arm(self) -> None:
        self._disarm()
        now = self._clock.now()
        self._timer_at = now if self._late else self._deadlines[0][0]
        self._timer = self._clock.call_later(self._timer_at - now, self._due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        now = self._clock.now()
        for _ in range(BATCH):
            if self._late:
                self._expired(self._late.popleft())
            elif not self._deadlines:
                break
            elif (ticket := self._deadlines[0][2]) not in self.queue:
                heapq.heappop(self._deadlines)
            elif self._deadlines[0][0] <= now:
                heapq.heappop(self._deadlines)
                del self.queue[ticket]
                self._expired(ticket)
            else:
                break
        self._sweep()
        if self._late or self._deadlines:
            self._arm()  # at once, where there are more
