"""Deployments as the admin API and the command line change and see them: one of those who feed the reconciler.

A deploy reads a package into the depot, a rollback and a retry find one there; each then hands a `Change` to the reconciler
(reconciler.py), with the way to write it down. The desired state is in the database, the packages are in the depot, what
runs is in the registry.

While the server starts (see `starting`), services can be looked at, undeployed and tried again; every other change is
`unavailable` until the start is over, which takes seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from insula.background import Tasks
from insula.deployments import views
from insula.deployments.contract import Deployed, Listed, Shown
from insula.deployments.desired import Desired
from insula.deployments.reconciler import Change, Reconciler
from insula.deployments.starting import Start
from insula.deployments.stopwatch import Stopwatch
from insula.deployments.sweeping import Sweeping
from insula.errors import CallerError, Code, InsulaError, UnavailableError
from insula.times import rfc3339

if TYPE_CHECKING:
    from insula.deployments.attempts import Attempts
    from insula.packages.deployable import Deployable
    from insula.packages.depot import Depot
    from insula.packages.sources import Sources
    from insula.services.generation import Generation
    from insula.services.registry import Registry
    from insula.storage.deployments import DeploymentRepository, DeploymentRow


class DeploymentManager:
    """Implements `contract.Deployments`. Lives on the event loop; `load` and `start` once before, `stop` once after. Others
    who know what is to run feed `reconciler`. `stage` is as of the reconciler."""

    def __init__(
        self,
        *,
        sources: Sources,
        depot: Depot,
        repository: DeploymentRepository,
        registry: Registry,
        attempts: Attempts,
        stage: Callable[[Deployable, Callable[[str], None]], Awaitable[Generation]],
        drain_timeout: float,
    ) -> None:
        self._sources = sources
        self._depot = depot
        self._repository = repository
        self._registry = registry
        self._attempts = attempts
        self._desired = Desired(registry)
        background = Tasks()
        self._sweeping = Sweeping(depot, repository, background)
        self._start: Start | None = None  # until it is over
        self.reconciler = Reconciler(
            self._desired,
            repository=repository,
            registry=registry,
            attempts=attempts,
            stage=stage,
            drain_timeout=drain_timeout,
            background=background,
        )

    # Life

    async def load(self) -> None:
        """Reads what is to run: it can be looked at and undeployed from here on."""
        rows = await self._repository.all()
        self._desired.rows = {row.service_id: row for row in rows}
        if not rows:
            await self._sweeping.keep_what_is_there()
        self._start = Start(rows, self._desired, self._attempts, self._depot, self.reconciler)
        self._desired.is_coming = self._start.has

    async def start(self) -> None:
        """Runs what `load` has read. A service that cannot start is logged, shown as stopped, and stops no other."""
        assert self._start is not None
        async with self._sweeping.held_off():
            await self._start.run()
        self._start = None
        self._sweeping.later()

    async def stop(self) -> None:
        """Refuses further changes, waits for those under way within the drain time, then stops every service."""
        self._sweeping.stop()
        await self.reconciler.stop()

    # Changes

    async def deploy(self, source: str, *, override: bool = False, plan: bool = False) -> Deployed:
        """See the contract."""
        watch = Stopwatch()
        async with self._changing_depot():
            deployable = await self._sources.fetch(source)
            return await self._put(deployable, _told(source), watch, override=override, plan=plan)

    async def deploy_file(self, file: Path) -> Deployed:
        """Deploys a file that the operator names, who needs no `[sources] roots` for it."""
        watch = Stopwatch()
        async with self._changing_depot():
            deployable = await self._depot.add(file)
            return await self._put(deployable, file.as_uri(), watch, override=False, plan=False)

    async def upload(self, body: AsyncIterator[bytes], *, override: bool = False, plan: bool = False) -> Deployed:
        """See the contract."""
        watch = Stopwatch()
        async with self._changing_depot():
            deployable = await self._depot.add(body)
            source = f"upload:sha256:{deployable.digest}"
            return await self._put(deployable, source, watch, override=override, plan=plan)

    async def rollback(self, service_id: str, *, plan: bool = False) -> Deployed:
        """See the contract."""
        watch = Stopwatch()
        async with self._changing_depot(), self.reconciler.alone(service_id):
            present = self._desired.row(service_id)
            history = await self._repository.previous(service_id)
            if not history:
                raise CallerError(
                    f"{service_id} has had no other package before the present one",
                    code=Code.FAILED_PRECONDITION,
                    status=409,
                    hint="deploy the package that you want with --override; a rollback then leads back to this one",
                )
            deployable = await self._depot.get(history[0].digest)
            watch.done("read")

            def write() -> Awaitable[DeploymentRow]:
                return self._repository.pop_to_previous(
                    service_id, expected_digest=present.digest, deployed_at=rfc3339()
                )

            return await self._apply(Change(deployable, write), history[0].source, watch, plan=plan)

    async def retry(self, service_id: str) -> Deployed:
        """See the contract."""
        watch = Stopwatch()
        async with self._sweeping.held_off(), self.reconciler.alone(service_id):
            row = self._desired.row(service_id)
            if self._registry.running(service_id) is not None or self._desired.is_coming(service_id):
                raise CallerError(
                    f"{service_id} is not stopped",
                    code=Code.FAILED_PRECONDITION,
                    status=409,
                    hint=f"see how it is: insula show {service_id}",
                )
            try:
                deployable = await self._depot.get(row.digest)
                watch.done("read")
                return await self._apply(Change(deployable), row.source, watch, plan=False)
            except InsulaError as error:
                self._desired.note_failure(service_id, str(error))
                raise

    async def undeploy(self, service_id: str) -> None:
        """See the contract."""
        async with self.reconciler.alone(service_id):
            self._desired.row(service_id)
            if self._start is not None:
                await self._start.call_off(service_id)
            await self.reconciler.remove(service_id, partial(self._repository.remove, service_id))
        self._sweeping.later()

    async def _put(
        self, deployable: Deployable, source: str, watch: Stopwatch, *, override: bool, plan: bool
    ) -> Deployed:
        """Deploys what was read just now."""
        watch.done("read")
        service_id = str(deployable.service_id)
        async with self.reconciler.alone(service_id, beside=self._desired.rows):
            present = self._desired.rows.get(service_id)
            if present is not None and not override and not plan:
                raise CallerError(
                    f"{service_id} is deployed already",
                    code=Code.ALREADY_EXISTS,
                    hint='replace it without a dropped request: --override, or "override": true',
                )

            def write() -> Awaitable[DeploymentRow]:
                return self._repository.put(
                    service_id,
                    digest=deployable.digest,
                    version=deployable.version,
                    source=source,
                    deployed_at=rfc3339(),
                    expected_digest=present.digest if present else None,
                )

            return await self._apply(Change(deployable, write), source, watch, plan=plan)

    async def _apply(self, change: Change, source: str, watch: Stopwatch, *, plan: bool) -> Deployed:
        applied = await self.reconciler.apply(change, watch, plan=plan)
        deployable = change.deployable
        return Deployed(
            service_id=str(deployable.service_id),
            status="planned" if plan else "deployed" if change.write else "started",
            endpoints=applied.endpoints,
            digest=f"sha256:{deployable.digest}",
            version=deployable.version,
            source=source,
            changes=applied.changes,
            steps=watch.steps,
        )

    # Views

    def list(self) -> list[Listed]:
        """See the contract."""
        return [self._desired.listed(row) for row in self._desired.rows.values()]

    async def show(self, service_id: str) -> Shown:
        """See the contract."""
        listed = self._desired.listed(self._desired.row(service_id))
        generation = self._registry.running(service_id)
        latest = generation is not None and self._desired.leads(service_id)
        previous = [f"sha256:{entry.digest}" for entry in await self._repository.previous(service_id)]
        return views.show(listed, generation, latest=latest, previous=previous)

    def stopped(self, name: str) -> str | None:
        """The full id of a service that is deployed and does not run, by that or by its name without version."""
        return self._desired.stopped(name)

    @asynccontextmanager
    async def _changing_depot(self) -> AsyncIterator[None]:
        """From the first byte of a package to the flip, nothing is swept; afterwards what nobody needs is. UnavailableError
        while the server starts."""
        if self._start is not None:
            raise UnavailableError(
                "the server is starting and takes no deployment yet",
                reason="starting",
                hint="try again once /health/ready of the public port answers 200",
                retry_after=1.0,
            )
        try:
            async with self._sweeping.held_off():
                yield
        finally:
            self._sweeping.later()


def _told(source: str) -> str:
    """The source as it is written down and listed: a query is cut off, since a presigned URL has its key there."""
    return source.partition("?")[0].partition("#")[0]
