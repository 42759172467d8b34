"""When the depot is swept: after a start or a change, while no package is between its first byte and its flip."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from insula.background import Tasks
from insula.deployments.gate import Gate
from insula.errors import InsulaError

if TYPE_CHECKING:
    from insula.packages.depot import Depot
    from insula.storage.deployments import DeploymentRepository

log = logging.getLogger("insula.deployments")


class Sweeping:
    """Removes the packages that no deployment and no rollback needs. Lives on the event loop; its sweeps are tasks of
    `background`."""

    def __init__(self, depot: Depot, repository: DeploymentRepository, background: Tasks) -> None:
        self._depot = depot
        self._repository = repository
        self._background = background
        self._gate = Gate()
        self._foreign: frozenset[str] = frozenset()  # packages in the depot that are not this database's to sweep
        self._due = False
        self._stopped = False

    async def keep_what_is_there(self) -> None:
        """A database that knows of no deployment beside a depot with packages is most likely another one than they were
        deployed with (a wrong URL, a file that was lost): with the right one they will be needed again."""
        self._foreign = await self._depot.digests()
        if self._foreign:
            log.warning(
                "the depot has %d packages and the database no deployment: is it the right one? The packages are kept",
                len(self._foreign),
            )

    def held_off(self) -> AbstractAsyncContextManager[None]:
        """Nothing is swept inside."""
        return self._gate.shared()

    def later(self) -> None:
        """Sweeps once nothing holds it off."""
        if not self._due and not self._stopped:
            self._due = True
            self._background.start(self._sweep(), "the sweep of the depot")

    def stop(self) -> None:
        """Begins no further sweep."""
        self._stopped = True

    async def _sweep(self) -> None:
        async with self._gate.alone():
            self._due = False
            try:
                await self._depot.sweep(self._foreign | await self._repository.digests())
            except InsulaError as error:
                log.warning("the depot was not swept: %s", error)
