"""Large requests go to their handlers one after another, a bounded number of bytes in one turn of the loop.

A body of a megabyte takes its handler a millisecond and more on the loop. Thirty bodies that are complete in the same turn
would hold the loop for their time together. So some wait for later turns, and other work comes in between. The services
take turns: one that sends many large bodies waits for its own.
"""

from __future__ import annotations

import asyncio

from insula.rotation import Rotation

#: Bytes of large bodies that are handed over in one turn, unless one alone has more.
BUDGET = 262_144


class Turns:
    """Lives on one event loop."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._spent = 0  # in this turn
        self._armed = False
        self._waiting: Rotation[str, tuple[int, asyncio.Future[None]]] = Rotation()

    def enter(self, tenant: str, size: int) -> asyncio.Future[None] | None:
        """None if a body of this size may be handed over now, else a future that is done when it may. A cancelled future
        takes no turn."""
        wait = None
        if self._waiting or not self._fits(size):
            wait = asyncio.get_running_loop().create_future()
            self._waiting.put(tenant, (size, wait))
        else:
            self._spent += size
        self._arm()
        return wait

    def _fits(self, size: int) -> bool:
        return not self._spent or self._spent + size <= self._budget

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Another turn has begun."""
        self._armed, self._spent = False, 0
        while (first := self._waiting.peek()) is not None:
            _, (size, wait) = first
            if not wait.done():
                if not self._fits(size):
                    break
                self._spent += size
                wait.set_result(None)
            self._waiting.take()
        if self._spent or self._waiting:
            self._arm()
