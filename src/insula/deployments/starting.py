"""The start of a server: the deployments of the database are staged, a few at a time, and installed together.

Suspects (deployments during whose staging the process died) come last: one at a time, after all others answer calls. So the
next death has one suspect, and no other service is down for it. A deployment that is undeployed meanwhile is called off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from insula.deployments.attempts import GIVEN_UP, SUSPECT, Attempt
from insula.errors import InsulaError

if TYPE_CHECKING:
    from insula.deployments.attempts import Attempts
    from insula.deployments.desired import Desired
    from insula.deployments.reconciler import Reconciler
    from insula.packages.depot import Depot
    from insula.services.generation import Generation
    from insula.storage.deployments import DeploymentRow

log = logging.getLogger("insula.deployments")

#: How many generations are staged at once when the server starts.
START_WIDTH = 4


class Start:
    """The start of all `rows`. One that is given up for the deaths at its starts is noted as failed, and not started."""

    def __init__(
        self, rows: Sequence[DeploymentRow], desired: Desired, attempts: Attempts, depot: Depot, reconciler: Reconciler
    ) -> None:
        self._desired = desired
        self._depot = depot
        self._reconciler = reconciler
        attempts.keep(Attempt(row.service_id, row.digest) for row in rows)
        self._first: list[DeploymentRow] = []
        self._last: list[DeploymentRow] = []
        for row in rows:
            self._sort(row, attempts.deaths(row.service_id, row.digest))
        #: What is still to come: a task once it is begun.
        self._coming: dict[str, asyncio.Task[Generation | None] | None] = dict.fromkeys(
            row.service_id for row in (*self._first, *self._last)
        )

    def _sort(self, row: DeploymentRow, deaths: int) -> None:
        if deaths >= GIVEN_UP:
            self._desired.note_failure(
                row.service_id,
                f"the server's process ended {deaths} times while this was being started, and it is not started any "
                f"more (insula retry {row.service_id} tries again)",
            )
        elif deaths >= SUSPECT:
            log.warning("%s is started last: the process ended %d times at its start", row.service_id, deaths)
            self._last.append(row)
        else:
            self._first.append(row)

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
                return await self._stage(row)

        tasks = {row: asyncio.create_task(one(row)) for row in rows if row.service_id in self._coming}
        for row, task in tasks.items():
            self._coming[row.service_id] = task
        if tasks:
            await asyncio.wait(tasks.values())
        started = []
        for row, task in tasks.items():
            if self._coming.pop(row.service_id, None) is task and (generation := task.result()) is not None:
                started.append((row, generation))
        await self._reconciler.install(started)

    async def _stage(self, row: DeploymentRow) -> Generation | None:
        """None where that failed, which is noted."""
        try:
            return await self._reconciler.bring_up(await self._depot.get(row.digest))
        except InsulaError as error:
            self._desired.note_failure(row.service_id, str(error))
        except Exception:
            log.exception("%s does not start", row.service_id)
            self._desired.failed[row.service_id] = "internal error"
        return None
