"""A bounded number of threads that run guests, shared out fairly among the programs.

Each program has an account of what it uses. It has at most its share of the threads at once, and its jobs wait in order;
the programs with jobs that may run take turns (rotation.py). So a program whose guests burn all the time that they get
slows itself, and no other. The places of those that wait are shared out as well (shares.py).

The event loop alone counts and hands out, so there is no lock; a job that is over says so there (`done`). The threads
are daemons: one that cannot be stopped must not keep the process alive. What dead instances leave is given back by a thread
of its own, which no guest can hold.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial

from insula.background import thread
from insula.errors import LimitError
from insula.rotation import Rotation
from insula.shares import Shares

log = logging.getLogger("insula.wasm")


class Account:
    """What one program uses of the workers and of the turns of the loop. `name` is the tenant's, for messages. `running`
    counts its jobs in workers. `spent` is the time (s) that its guests had of a `turn` of the loop (turn.py)."""

    __slots__ = ("name", "running", "spent", "turn")

    def __init__(self, name: str = "this service") -> None:
        self.name = name
        self.running = 0
        self.turn = -1
        self.spent = 0.0


class Workers:
    """At most `threads` jobs run, at most `share` of one account. At most `backlog` calls wait; starts and resumed jobs are
    not counted. `crowded` is true while jobs wait."""

    def __init__(self, threads: int, backlog: int, share: int) -> None:
        self.busy = 0
        self.crowded = False
        self._most = threads
        self._share = share
        self._room: Shares[Account] = Shares(backlog)
        self._running = 0
        # each job with whether it counts as one that waits
        self._waiting: Rotation[Account, tuple[Callable[[], None], bool]] = Rotation()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._untidy: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # All at once, here: on a busy machine the start of a thread takes milliseconds, and the loop would wait for it.
        self._threads = [_start(self._jobs, f"insula-guest-{n + 1}") for n in range(threads)]
        self._threads.append(_start(self._untidy, "insula-tidy"))

    def check_room(self, account: Account) -> None:
        """LimitError where as many jobs of the account wait as may."""
        if not self._room.has_room(account):
            raise LimitError(
                f"{account.name} has {self._room.used(account)} calls that wait for a thread, which is its share",
                reason="worker_backlog",
                hint="try again in a moment; the operator may raise limits.worker_threads",
                retry_after=1.0,
            )

    def submit(self, account: Account, job: Callable[[], None], *, counts: bool = True) -> None:
        """Runs a job, which does not raise, in a thread when it is its turn. A start, and a job that goes on with what has
        begun, do not count as one that waits: there are no more of those than instances."""
        self.busy += 1
        if counts:
            self._room.take_anyway(account)
        self._waiting.put(account, (job, counts))
        self._hand_out()

    def done(self, account: Account) -> None:
        """One job of the account has come back."""
        self.busy -= 1
        self._running -= 1
        if account.running == self._share:
            self._waiting.postpone(account)  # it could not have its turn, and has it after those who could
        account.running -= 1
        self._hand_out()

    def withdraw(self, account: Account, job: Callable[[], None]) -> bool:
        """Takes back a job that has not begun; False where it has."""
        entry = next((entry for entry in self._waiting.waiting(account) if entry[0] == job), None)
        if entry is None:
            return False
        self._waiting.withdraw(account, entry)
        self.busy -= 1
        if entry[1]:
            self._room.give(account)
        self._hand_out()
        return True

    def tidy(self, job: Callable[[], None]) -> None:
        """Runs a short job that gives something back, in a thread that runs no guest. Any thread may ask."""
        self._untidy.put(job)

    def close(self) -> None:
        """Each thread ends once the jobs that wait are done."""
        for _ in range(self._most):
            self._jobs.put(None)
        self._untidy.put(None)

    def join(self, seconds: float) -> None:
        """Waits for the threads to end, so long at most. Blocks."""
        end = time.monotonic() + seconds
        for each in self._threads:
            each.join(max(0.0, end - time.monotonic()))

    def _hand_out(self) -> None:
        while self._running < self._most and (taken := self._waiting.take(self._may_run)) is not None:
            account, (job, counts) = taken
            account.running += 1
            self._running += 1
            if counts:
                self._room.give(account)
            self._jobs.put(job)
        self.crowded = self.busy > self._running

    def _may_run(self, account: Account) -> bool:
        return account.running < self._share


def _start(jobs: queue.SimpleQueue[Callable[[], None] | None], name: str) -> threading.Thread:
    started = thread(partial(_run, jobs), name)
    started.start()
    return started


def _run(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job()
        except BaseException:
            log.exception("a job of a guest thread failed")
        del job  # nothing is kept alive while the thread waits for the next
