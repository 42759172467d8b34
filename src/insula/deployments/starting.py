"""The start of a server: the deployments of the database are staged, a few at a time, and installed together.

Suspects (deployments during whose staging the process died) come last: one at a time, after all others answer calls. So the
next death has one suspect, and no other service is down for it. A deployment that is undeployed meanwhile is called off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from insula.services.generation import Generation
    from insula.storage.deployments import DeploymentRow

#: How many generations are staged at once when the server starts.
START_WIDTH = 4


class Start:
    """`bring_up` stages one; None where that failed, which it has noted. `install` puts several in place at once."""

    def __init__(
        self,
        first: Sequence[DeploymentRow],
        last: Sequence[DeploymentRow],
        *,
        bring_up: Callable[[DeploymentRow], Awaitable[Generation | None]],
        install: Callable[[list[tuple[DeploymentRow, Generation]]], Awaitable[None]],
    ) -> None:
        self._first, self._last = first, last
        self._bring_up = bring_up
        self._install = install
        #: What is still to come: a task once it is begun.
        self._coming: dict[str, asyncio.Task[Generation | None] | None] = dict.fromkeys(
            row.service_id for row in (*first, *last)
        )

    def has(self, service_id: str) -> bool:
        """True while this service is still to be started."""
        return service_id in self._coming

    async def run(self) -> None:
        """Starts all of them. Where this is cancelled, nothing of it is left."""
        try:
            await self._together(self._first)
            for row in self._last:
                await self._together([row])
        finally:
            for service_id in list(self._coming):
                await self.call_off(service_id)

    async def call_off(self, service_id: str) -> None:
        """Ends the start of one service, begun or not; returns once nothing of it is left."""
        task = self._coming.pop(service_id, None)
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        generation = None if task.cancelled() else task.result()
        if generation is not None:
            await generation.close()

    async def _together(self, rows: Sequence[DeploymentRow]) -> None:
        gate = asyncio.Semaphore(START_WIDTH)

        async def one(row: DeploymentRow) -> Generation | None:
            async with gate:
                return await self._bring_up(row)

        tasks = {row: asyncio.create_task(one(row)) for row in rows if row.service_id in self._coming}
        for row, task in tasks.items():
            self._coming[row.service_id] = task
        if tasks:
            await asyncio.wait(tasks.values())
        started = []
        for row, task in tasks.items():
            if self._coming.pop(row.service_id, None) is task and (generation := task.result()) is not None:
                started.append((row, generation))
        await self._install(started)
