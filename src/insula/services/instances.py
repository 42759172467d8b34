"""When a service starts instances, and what becomes of it where they do not start.

- At least the minimum is kept while calls are taken, and one is started for each call that waits, up to the maximum. Above
  the minimum, idle ones are closed after a while (see `pool.py`).
- One that a call killed is replaced at once, unless another one is idle or on its way.
- When one fails to start for want of what all services share, calls without an instance are refused with that limit.
- When one fails to start otherwise, the service is degraded, and the supervisor says when to try again. Calls that wait are
  refused (`unavailable`, with the time to come back) where no instance lives or is on its way; a service with one goes on.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable

from insula.errors import InsulaError, LimitError, UnavailableError
from insula.services.clock import Clock
from insula.services.counts import Counts
from insula.services.life import Lives
from insula.services.mailbox import Mailbox, Ticket
from insula.services.pool import Pool
from insula.services.refusals import cannot_start, unexpected
from insula.services.states import State, move
from insula.services.supervisor import Supervisor

log = logging.getLogger("insula.services")

#: Limits that all services share: what a start that fails for one of them is called, and how soon the next is tried (s).
_OTHERS = frozenset(("guest_memory", "instances"))
_CROWDED = 0.5

#: How many instances are started before the event loop gets its turn.
BATCH = 16


class Instances:
    """The instances of one service, and the state that follows from them; the service itself sets how it ends.

    `last_error` is what ended an instance last, or kept one from starting; `start_error` what kept the first ones from it.
    `waiting` has the calls without an instance: `pump` gives them idle ones, `refuse` ends one of them. `notify` is called
    after each change that somebody may wait for.
    """

    def __init__(
        self,
        name: str,
        lives: Lives,
        waiting: Mailbox,
        *,
        minimum: int,
        maximum: int,
        idle_after: float,
        clock: Clock,
        jitter: Callable[[], float],
        counts: Counts,
        pump: Callable[[], None],
        refuse: Callable[[Ticket, InsulaError], None],
        notify: Callable[[], None],
    ) -> None:
        self.state = State.STARTING
        self.last_error: str | None = None
        self.start_error: InsulaError | None = None
        self.pool = Pool(
            lives,
            minimum=minimum,
            maximum=maximum,
            idle_after=idle_after,
            clock=clock,
            counts=counts,
            ready=self._started,
            failed=self._start_failed,
            gone=self._gone,
        )
        self._name = name
        self._waiting = waiting
        self._clock = clock
        self._counts = counts
        self._supervisor = Supervisor(clock, jitter)
        self._pump = pump
        self._refuse = refuse
        self._notify = notify
        self._retrying = False
        self._begun = 0  # instances, in this turn of the loop

    def check_taking(self) -> None:
        """UnavailableError where the service takes no calls, or has no instance and may not start one yet."""
        if self.state is State.DEGRADED:
            if self.pool.total or not self._supervisor.wait():
                return
            raise self._cannot_start()
        if self.state is not State.READY:
            raise UnavailableError(f"{self._name} is {self.state.value}", hint="try again", retry_after=1.0)

    @property
    def first(self) -> int:
        """How many are up before calls are taken."""
        return max(1, self.pool.minimum)

    def begin(self) -> None:
        """Starts the first ones, until one fails."""
        while self.state is State.STARTING and self.start_error is None and self.pool.total < self.first:
            if not self._has_room():
                return
            self.pool.start()

    def grow(self) -> None:
        """Starts the instances that the minimum and the waiting calls ask for."""
        if self.state is State.STOPPED or self.state is State.STARTING:
            return
        pool = self.pool
        minimum = 0 if self.state is State.DRAINING else pool.minimum
        while pool.total < pool.maximum and (pool.total < minimum or pool.starting < len(self._waiting)):
            if not self._may_start() or not self._has_room():
                return
            pool.start()

    def _has_room(self) -> bool:
        """Whether another instance may be started in this turn of the loop. A thousand calls may end in one, and each asks
        for what comes next; what is over the batch is looked at again in the next turn."""
        if self._begun == BATCH:
            return False
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._begun += 1
        return True

    def _next_turn(self) -> None:
        full, self._begun = self._begun == BATCH, 0
        if full:
            self.begin()
            self.grow()

    def shed(self) -> None:
        """Closes every idle instance above the minimum, whose memory others need now."""
        self.pool.shed()

    def replace(self) -> None:
        """Starts an instance in the place of one that was lost, unless another one is ready for the next call."""
        pool = self.pool
        if self.state not in (State.READY, State.DEGRADED) or pool.idle or pool.starting:
            return
        if pool.total < pool.maximum and self._may_start() and self._has_room():
            pool.start()

    def _gone(self) -> None:
        """One that had something to do before it went made room for another."""
        self.grow()
        self._notify()

    def _may_start(self) -> bool:
        if not self._supervisor.failures:
            return True
        return not self.pool.starting and not self._supervisor.wait()

    def _started(self) -> None:
        self._supervisor.succeeded()
        if self.state is State.DEGRADED:
            self.state = move(self.state, State.READY)
            log.info("%s is ready again", self._name)
        self._pump()

    def _start_failed(self, error: BaseException) -> None:
        if self.state is State.STOPPED:
            self._notify()
            return
        told = error if isinstance(error, InsulaError) else unexpected(self._name, error)
        self.last_error = told.message
        if self.state is State.STARTING:
            self.start_error = self.start_error or told
            self._notify()
            return
        if isinstance(told, LimitError) and told.reason in _OTHERS:
            self._crowded_out(told)
            return
        delay = self._supervisor.failed()
        log.warning("%s: an instance does not start (%s in a row): %s", self._name, self._supervisor.failures, error)
        if self.state is State.READY:
            self.state = move(self.state, State.DEGRADED)
        if not self.pool.total:
            for ticket in self._waiting.clear():
                self._refuse(ticket, self._cannot_start())
        self._retry_after(delay)
        self._notify()

    def _crowded_out(self, error: LimitError) -> None:
        """Others have what an instance would need. That says nothing of this service: it is not degraded, calls that no
        instance is there for are told of the limit, and the next start is tried soon where one is still asked for."""
        if not self.pool.total:
            for ticket in self._waiting.clear():
                self._refuse(ticket, copy.copy(error))
        if self.pool.total < self.pool.minimum or self._waiting:
            self._retry_after(_CROWDED)
        self._notify()

    def _retry_after(self, seconds: float) -> None:
        if not self._retrying:
            self._retrying = True
            self._clock.call_later(seconds, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        if self.state is State.STOPPED:
            return
        remaining = self._supervisor.wait()
        if remaining:
            self._retry_after(remaining)
        else:
            self.grow()

    def _cannot_start(self) -> UnavailableError:
        return cannot_start(self._name, max(self._supervisor.wait(), 0.1))
