"""Joins what is to run with what runs, whoever says what is to run: the admin API, a watched folder, another node.

A change goes through the same steps wherever it comes from. What was read is staged as a new generation (granted, compiled,
linked, started), the flip is prepared, the change is written down, the flip is made, and only then is the old generation
drained. Everything that can fail does so before it is written down, and leaves all as it was. What is written down is
acknowledged: after a kill the next start runs it.

A change claims its service and its names first (see `claims`); different services are staged side by side. From the
preparation of a flip to the flip one change has the registry to itself: the database makes one write at a time anyway. From
there on a change is carried through even where its sender has left, so what is written down is what runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from insula.background import Tasks, carried_through
from insula.deployments import changes
from insula.deployments.claims import Claims
from insula.deployments.stopwatch import Stopwatch
from insula.errors import InsulaError, UnavailableError

if TYPE_CHECKING:
    from insula.deployments.attempts import Attempts
    from insula.deployments.desired import Desired
    from insula.packages.deployable import Deployable
    from insula.services.generation import Generation
    from insula.services.registry import Registry
    from insula.storage.deployments import DeploymentRepository, DeploymentRow

log = logging.getLogger("insula.deployments")


@dataclass(frozen=True, slots=True)
class Change:
    """What is to run for one service from now on. `write` writes it down, or has found it written down by somebody else,
    and gives the row; None where the row that is known already stays as it is, and what it names is to be started again."""

    deployable: Deployable
    write: Callable[[], Awaitable[DeploymentRow]] | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What a change came to: the differences in plain words, and the paths that lead to the service."""

    changes: list[str]
    endpoints: list[str]


class Reconciler:
    """Lives on the event loop. `stage` makes a running generation of a deployable: it raises and leaves nothing behind, or
    its result is ready."""

    def __init__(
        self,
        desired: Desired,
        *,
        repository: DeploymentRepository,
        registry: Registry,
        attempts: Attempts,
        stage: Callable[[Deployable, Callable[[str], None]], Awaitable[Generation]],
        drain_timeout: float,
        background: Tasks,
    ) -> None:
        self._desired = desired
        self._repository = repository
        self._registry = registry
        self._attempts = attempts
        self._stage = stage
        self._drain_timeout = drain_timeout
        self._background = background
        self._claims = Claims()
        self._flips = asyncio.Lock()
        self._uncertain: set[str] = set()  # services whose last change may or may not have been written down
        self._stopping = False

    # Changes

    @asynccontextmanager
    async def alone(self, service_id: str, *, beside: Iterable[str] = ()) -> AsyncIterator[None]:
        """Claims a service for one change, and its names against those of the services `beside` it."""
        self._check_running()
        with self._claims.claim(service_id, deployed=beside):
            await self._end_doubt(service_id)
            yield

    async def apply(self, change: Change, watch: Stopwatch, *, plan: bool = False) -> Applied:
        """Makes it so, or tells what that would change. The caller has claimed the service."""
        deployable = change.deployable
        service_id = str(deployable.service_id)
        old = self._registry.running(service_id)
        generation = await self._staged(deployable, watch.done)
        if change.write is None:
            planned = [changes.STARTED, *changes.limits(generation.limits)]
        else:
            planned = changes.describe(generation, old)
        if plan:
            await generation.close()
        else:
            await carried_through(self._commit(generation, change, watch), f"the deployment of {service_id}")
            log.info("%s deployed: %s, %s", service_id, deployable.digest[:12], "; ".join(planned))
        return Applied(planned, generation.published.endpoints(latest=self._desired.leads(service_id)))

    async def remove(self, service_id: str, forget: Callable[[], Awaitable[object]]) -> None:
        """Takes a service away: `forget` writes that down. Returns once it is gone. The caller has claimed it."""
        await carried_through(self._remove(service_id, forget), f"undeploying {service_id}")
        log.info("%s undeployed", service_id)

    async def _commit(self, generation: Generation, change: Change, watch: Stopwatch) -> None:
        """Prepares the flip, writes down and flips. Whatever fails closes the generation."""
        service_id = str(generation.id)
        try:
            async with self._flips:
                self._check_running()
                flip = self._registry.prepare_install(generation, place=self._desired.place(service_id))
                if change.write is not None:
                    with self._noting_doubt(service_id):
                        self._desired.rows[service_id] = await change.write()
                    watch.done("written")
                # From here to the flip nothing is awaited: what is written down is what runs.
                replaced = flip()
        except BaseException:
            await generation.close()
            raise
        self._desired.failed.pop(service_id, None)
        watch.done("live")
        if replaced is not None:
            self._background.start(self._retire(replaced), f"the end of what {service_id} was before")
        await self._attempts.forget(service_id)

    async def _remove(self, service_id: str, forget: Callable[[], Awaitable[object]]) -> None:
        async with self._flips:
            runs = self._registry.running(service_id) is not None
            flip = self._registry.prepare_removal(service_id) if runs else None
            with self._noting_doubt(service_id):
                await forget()
            del self._desired.rows[service_id]
            self._desired.failed.pop(service_id, None)
            generation = flip() if flip is not None else None
        await self._attempts.forget(service_id)
        if generation is not None:
            await self._retire(generation)

    # A start

    async def bring_up(self, deployable: Deployable) -> Generation:
        """Stages what is written down already."""
        return await self._staged(deployable, lambda _: None)

    async def install(self, started: Sequence[tuple[DeploymentRow, Generation]]) -> None:
        """Puts several in place at once; where they do not go together, one after the other, as they were deployed. Those
        that cannot be are closed, and all where this is cancelled before."""
        left = [generation for _, generation in started]
        try:
            async with self._flips:
                left = self._installed(started)
        finally:
            for generation in left:
                await generation.close()

    def _installed(self, started: Sequence[tuple[DeploymentRow, Generation]]) -> list[Generation]:
        """Puts generations in place; those that were refused."""
        order = {service_id: place for place, service_id in enumerate(self._desired.rows)}
        try:
            self._registry.fill(
                [generation for _, generation in started], lambda each: order.get(str(each.id), len(order))
            )
            return []
        except InsulaError:
            pass
        refused = []
        for row, generation in started:
            try:
                self._registry.install(generation, place=self._desired.place(row.service_id))
            except InsulaError as error:
                self._desired.note_failure(row.service_id, str(error))
                refused.append(generation)
        return refused

    async def stop(self) -> None:
        """Refuses further changes, waits for those under way within the drain time, then stops every service."""
        self._stopping = True
        await self._claims.ended(self._drain_timeout)
        await self._background.ended(self._drain_timeout)
        await asyncio.gather(*(self._retire(generation) for generation in self._registry.generations))

    # Parts

    async def _staged(self, deployable: Deployable, step: Callable[[str], None]) -> Generation:
        """Stages a deployable. Where it is what is written down of its service, the attempt is marked: the next start
        stages it as well."""
        row = self._desired.rows.get(str(deployable.service_id))
        if row is None or row.digest != deployable.digest:
            return await self._stage(deployable, step)
        generation = None
        try:
            async with self._attempts.marked(row.service_id, row.digest):
                generation = await self._stage(deployable, step)
        except BaseException:
            if generation is not None:  # cancelled while the end of the attempt was noted
                await generation.close()
            raise
        return generation

    @contextmanager
    def _noting_doubt(self, service_id: str) -> Iterator[None]:
        """Around a write: one that failed may have been made all the same, so the next change looks first."""
        self._uncertain.add(service_id)
        yield
        self._uncertain.discard(service_id)

    async def _end_doubt(self, service_id: str) -> None:
        """Takes over what the database has of a service whose last change may or may not have been written down."""
        if service_id not in self._uncertain:
            return
        row = next((row for row in await self._repository.all() if row.service_id == service_id), None)
        self._uncertain.discard(service_id)
        if row is not None:
            self._desired.rows[service_id] = row
        elif self._desired.rows.pop(service_id, None) is not None and self._registry.running(service_id) is not None:
            async with self._flips:
                generation = self._registry.remove(service_id)
            await self._retire(generation)

    def _check_running(self) -> None:
        if self._stopping:
            raise UnavailableError("the server is stopping", hint="try again when it is up")

    async def _retire(self, generation: Generation) -> None:
        await generation.service.drain(self._drain_timeout)
        await generation.close()
