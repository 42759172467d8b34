"""The time that guests have in one turn of the event loop, all programs together.

Quick calls run where they come in, and cost the loop nothing here. Once the guests of a turn have used up `BUDGET`, or
calls wait already, further ones wait for the next turn: in a queue a program, and the programs take turns. So the loop is
back at its sockets after a few milliseconds whatever the guests do, and a program with many callers delays its own. One
that has had next to nothing of a full turn, and has no call waiting, is not delayed by the others before `MOST`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from insula.rotation import Rotation
from insula.wasm.workers import Account

#: Seconds of guests in a turn, and at most, where programs that have had less than `LITTLE` of it run as well.
BUDGET = 0.001
MOST = 0.003
LITTLE = 0.0001


class Turn:
    """Belongs to the loop. `full` is a plain field, for the hot path: whether a call may have to wait for a later turn."""

    __slots__ = ("_accounts", "_armed", "_jobs", "_loop", "_number", "_spent", "full")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.full = False
        self._loop = loop
        self._spent = 0.0
        self._number = 0
        self._armed = False
        self._jobs: Rotation[Account, Callable[[], None]] = Rotation()
        self._accounts = self._jobs.tenants

    def add(self, account: Account, seconds: float) -> None:
        """Guests of a program have run for so long in this turn."""
        if account.turn != self._number:
            account.turn, account.spent = self._number, 0.0
        account.spent += seconds
        self._spent += seconds
        if self._spent >= BUDGET:
            self.full = True
        self._arm()

    def has_time(self, account: Account) -> bool:
        """Whether a call of this program may run although the turn is full."""
        if self._spent >= MOST or account in self._accounts:
            return False
        return account.turn != self._number or account.spent < LITTLE

    def put(self, account: Account, job: Callable[[], None]) -> None:
        """Runs a job, which does not raise, in a later turn."""
        self._jobs.put(account, job)
        self.full = True
        self._arm()

    def withdraw(self, account: Account, job: Callable[[], None]) -> None:
        """Takes back a job that has not run; ValueError where none waits."""
        if not self._jobs.withdraw(account, job):
            raise ValueError("the job does not wait")

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._armed = False
        self._number += 1
        self._spent = 0.0
        until = monotonic() + BUDGET
        jobs = self._jobs
        while (taken := jobs.take()) is not None:
            _, job = taken
            job()
            if monotonic() >= until:
                break
        self.full = bool(jobs)
        if jobs:
            self._arm()
