"""Many may use the depot at once, or one may sweep it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Gate:
    """A lock with a shared and an exclusive side. A task that wants to share waits while one is inside alone, and the other
    way round. One that waits to be alone holds no one up, so deploys never queue behind a sweep that has not begun. Leaving
    waits for nothing, so a cancellation cannot leave the gate shut."""

    def __init__(self) -> None:
        self._left = asyncio.Event()
        self._shared = 0
        self._alone = False

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Inside with others of the kind."""
        await self._until(lambda: not self._alone)
        self._shared += 1
        try:
            yield
        finally:
            self._shared -= 1
            self._leave()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Inside with nobody else."""
        await self._until(lambda: not self._alone and not self._shared)
        self._alone = True
        try:
            yield
        finally:
            self._alone = False
            self._leave()

    async def _until(self, free: Callable[[], bool]) -> None:
        while not free():
            await self._left.wait()

    def _leave(self) -> None:
        """Wakes everyone who waits; who waits from now on waits for the next to leave."""
        self._left.set()
        self._left = asyncio.Event()
