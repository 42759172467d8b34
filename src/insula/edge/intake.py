"""How many requests the connections of a listener begin in one turn of the event loop.

A thousand clients that send at the same moment are a thousand answers in one turn: tens of milliseconds, in which nothing
else runs. So a turn begins requests, and finishes answers that come later, for `BUDGET` seconds. What is over waits for the
next turns, in a queue a tenant, and the tenants take their turns in rotation: one whose callers flood the server delays
them, and no other's. A tenant is a service, or, for what is not known to be a call of one, the address of a client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from insula.background import unheard
from insula.interpreter import LOOK, look_at_young_objects
from insula.rotation import Rotation

#: Seconds of a turn in which requests are begun and answers finished.
BUDGET = 0.002
#: Seconds that a request of the ordinary road takes of the loop once its turn has come.
ROAD = 0.0001


class Intake:
    """Lives on one event loop. `until` is a plain field, for the hot path: before that moment (of `time.monotonic()`) a
    request is begun without asking."""

    __slots__ = ("_armed", "_end", "_look", "_tenants", "_waiting", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self._end = 0.0
        self._armed = False
        self._look = 0.0  # when young objects are looked at next
        self._waiting: Rotation[str, Callable[[], None]] = Rotation()
        self._tenants = self._waiting.tenants

    def is_over(self, tenant: str, now: float) -> bool:
        """Whether a request of this tenant has to `wait`."""
        if not self._armed:
            self._arm()
            self.until = self._end = now + BUDGET
            return False
        return now >= self._end or tenant in self._tenants

    def wait(self, tenant: str, begin: Callable[[], None]) -> None:
        """Calls `begin`, which does not raise, in a later turn."""
        self._waiting.put(tenant, begin)
        self.until = 0.0  # who comes now may have to stand behind others

    def run(self, tenant: str, work: Callable[[], None]) -> None:
        """Does some work for a tenant, which does not raise, now or in a later turn."""
        now = monotonic()
        if now >= self.until and self.is_over(tenant, now):
            self.wait(tenant, work)
        else:
            work()

    def turn(self, tenant: str) -> asyncio.Future[None] | None:
        """None where a request of this tenant may be begun now, else what is done when it may."""
        now = monotonic()
        if now < self.until or not self.is_over(tenant, now):
            return None
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.wait(tenant, partial(self._grant, turn))
        return turn

    def after(self, tenant: str, waited: asyncio.Future[Any]) -> asyncio.Future[None]:
        """Done once `waited` is done and a turn has time for what follows. Cancelling it cancels `waited`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def come(_: asyncio.Future[Any]) -> None:
            self.run(tenant, partial(self._grant, turn))

        def gone(turn: asyncio.Future[None]) -> None:
            if not turn.cancelled():
                return
            if not waited.done():
                waited.cancel()
            elif not waited.cancelled():
                unheard(waited.exception(), "a call")

        waited.add_done_callback(come)
        turn.add_done_callback(gone)
        return turn

    def _grant(self, turn: asyncio.Future[None]) -> None:
        """Lets a task of the ordinary road go on. It does so after this turn's work, and is counted here."""
        if not turn.done():  # its client may have left
            turn.set_result(None)
            self._end -= ROAD
            if self.until:
                self.until = self._end

    def _arm(self) -> None:
        self._armed = True
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Another turn has begun."""
        now = monotonic()
        if now >= self._look:
            self._look = now + LOOK
            look_at_young_objects()
        waiting = self._waiting
        if not waiting:
            self._armed = False
            self.until = 0.0
            return
        self._arm()
        self._end = monotonic() + BUDGET
        while (taken := waiting.take()) is not None:
            _, begin = taken
            begin()
            if monotonic() >= self._end:
                break
        self.until = 0.0 if waiting else self._end
