"""Many may use the depot at once, or one may sweep it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """A shared and an exclusive way in. Whoever comes shared waits while one is inside alone, and the other way round;
    one that waits to be alone holds no one up, so deploys never queue behind a sweep that has not begun."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._shared = 0
        self._alone = False

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Inside with others of the kind."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone)
            self._shared += 1
        try:
            yield
        finally:
            self._shared -= 1
            async with self._changed:
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Inside with nobody else."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._shared)
            self._alone = True
        try:
            yield
        finally:
            self._alone = False
            async with self._changed:
                self._changed.notify_all()
