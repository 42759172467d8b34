"""What is to run, and the one way to change it.

The desired state is in the database, the packages are in the depot, what runs is in the registry. A deploy goes through
the same steps whatever it comes from: the package is read and checked into the depot, staged as a new generation
(granted, compiled, linked, started), written down, flipped in, and only then is the old generation drained. Everything
that can fail does so before it is written down, and leaves all as it was. What is written down is acknowledged: after a
kill the next start runs it.

A change claims its service and its names first (see `claims`); different services deploy side by side. From the write
to the flip a change is carried through even where its sender has left, so what is written down is what runs.

While the server starts (see `starting`), services can be looked at, undeployed and tried again; every other change is
`unavailable` until the start is over, which takes seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from insula.background import Tasks, carried_through
from insula.deployments import changes, views
from insula.deployments.attempts import GIVEN_UP, SUSPECT, Attempt, Attempts
from insula.deployments.claims import Claims
from insula.deployments.contract import Deployed, Listed, Shown
from insula.deployments.desired import Desired
from insula.deployments.starting import Start
from insula.deployments.stopwatch import Stopwatch
from insula.deployments.sweeping import Sweeping
from insula.errors import CallerError, Code, InsulaError, UnavailableError

if TYPE_CHECKING:
    from insula.packages.depot import Depot
    from insula.packages.package import Package
    from insula.packages.sources import Sources
    from insula.services.generation import Generation
    from insula.services.registry import Registry
    from insula.storage.deployments import DeploymentRepository, DeploymentRow

log = logging.getLogger("insula.deployments")


class DeploymentManager:
    """Implements `contract.Deployments`. Lives on the event loop; `load` and `start` once before, `stop` once after.

    `stage` makes a running generation of a package: it raises and leaves nothing behind, or its result is ready.
    """

    def __init__(
        self,
        *,
        sources: Sources,
        depot: Depot,
        repository: DeploymentRepository,
        registry: Registry,
        attempts: Attempts,
        stage: Callable[[Package, Callable[[str], None]], Awaitable[Generation]],
        drain_timeout: float,
    ) -> None:
        self._sources = sources
        self._depot = depot
        self._repository = repository
        self._registry = registry
        self._attempts = attempts
        self._stage = stage
        self._drain_timeout = drain_timeout
        self._desired = Desired(registry)
        self._uncertain: set[str] = set()  # services whose last change may or may not have been written down
        self._claims = Claims()
        self._background = Tasks()
        self._sweeping = Sweeping(depot, repository, self._background)
        self._start: Start | None = None  # until it is over
        self._stopping = False

    # Life

    async def load(self) -> None:
        """Reads what is to run: it can be looked at and undeployed from here on."""
        rows = await self._repository.all()
        self._desired.rows = {row.service_id: row for row in rows}
        if not rows:
            await self._sweeping.keep_what_is_there()
        self._attempts.keep(Attempt(row.service_id, row.digest) for row in rows)
        first, last = [], []
        for row in rows:
            deaths = self._attempts.deaths(row.service_id, row.digest)
            if deaths >= GIVEN_UP:
                self._desired.note_failure(
                    row.service_id,
                    f"the server's process ended {deaths} times while this was being started, and it is not started any "
                    f"more (insula retry {row.service_id} tries again)",
                )
            elif deaths >= SUSPECT:
                log.warning("%s is started last: the process ended %d times at its start", row.service_id, deaths)
                last.append(row)
            else:
                first.append(row)
        self._start = Start(first, last, bring_up=self._bring_up, install=self._install)
        self._desired.is_coming = self._start.has

    async def start(self) -> None:
        """Runs what `load` has read. A service that cannot start is logged, shown as stopped, and stops no other."""
        assert self._start is not None
        async with self._sweeping.held_off():
            await self._start.run()
        self._start = None
        self._sweeping.later()

    async def _bring_up(self, row: DeploymentRow) -> Generation | None:
        try:
            return await self._staged(await self._depot.get(row.digest), lambda _: None)
        except InsulaError as error:
            self._desired.note_failure(row.service_id, str(error))
        except Exception:
            log.exception("%s does not start", row.service_id)
            self._desired.failed[row.service_id] = "internal error"
        return None

    async def _staged(self, package: Package, step: Callable[[str], None]) -> Generation:
        """Stages a package. Where it is what is written down of its service, the attempt is marked: the next start stages
        it as well."""
        row = self._desired.rows.get(str(package.service_id))
        if row is None or row.digest != package.digest:
            return await self._stage(package, step)
        generation = None
        try:
            async with self._attempts.marked(row.service_id, row.digest):
                generation = await self._stage(package, step)
        except BaseException:
            if generation is not None:  # cancelled while the end of the attempt was noted
                await generation.close()
            raise
        return generation

    async def _install(self, started: list[tuple[DeploymentRow, Generation]]) -> None:
        """All at once; where they do not go together, one after the other, as they were deployed."""
        order = {service_id: place for place, service_id in enumerate(self._desired.rows)}
        try:
            self._registry.fill(
                [generation for _, generation in started], lambda each: order.get(str(each.id), len(order))
            )
        except InsulaError:
            for row, generation in started:
                try:
                    self._registry.install(generation, place=self._desired.place(row.service_id))
                except InsulaError as error:
                    self._desired.note_failure(row.service_id, str(error))
                    await generation.close()

    async def stop(self) -> None:
        """Refuses further changes, waits for those under way within the drain time, then stops every service."""
        self._stopping = True
        self._sweeping.stop()
        await self._claims.ended(self._drain_timeout)
        await self._background.ended(self._drain_timeout)
        generations = list(self._registry.generations)
        await asyncio.gather(*(self._retire(generation) for generation in generations))

    # Changes

    async def deploy(self, source: str, *, override: bool = False, plan: bool = False) -> Deployed:
        """See the contract."""
        watch = Stopwatch()
        async with self._changing_depot():
            package = await self._sources.fetch(source)
            return await self._change(package, _told(source), watch, override=override, plan=plan)

    async def deploy_file(self, file: Path) -> Deployed:
        """Deploys a file that the operator names, who needs no `[sources] roots` for it."""
        watch = Stopwatch()
        async with self._changing_depot():
            package = await self._depot.add(file)
            return await self._change(package, file.as_uri(), watch, override=False, plan=False)

    async def upload(self, body: AsyncIterator[bytes], *, override: bool = False, plan: bool = False) -> Deployed:
        """See the contract."""
        watch = Stopwatch()
        async with self._changing_depot():
            package = await self._depot.add(body)
            return await self._change(package, f"upload:sha256:{package.digest}", watch, override=override, plan=plan)

    async def rollback(self, service_id: str, *, plan: bool = False) -> Deployed:
        """See the contract."""
        watch = Stopwatch()
        async with self._changing_depot(), self._alone(service_id):
            present = self._desired.row(service_id)
            history = await self._repository.previous(service_id)
            if not history:
                raise CallerError(
                    f"{service_id} has had no other package before the present one",
                    code=Code.FAILED_PRECONDITION,
                    status=409,
                    hint="deploy the package that you want with --override; a rollback then leads back to this one",
                )
            package = await self._depot.get(history[0].digest)
            watch.done("read")
            return await self._replace(
                package,
                history[0].source,
                watch,
                plan=plan,
                write=lambda: self._repository.pop_to_previous(
                    service_id, expected_digest=present.digest, deployed_at=_now()
                ),
            )

    async def retry(self, service_id: str) -> Deployed:
        """See the contract."""
        watch = Stopwatch()
        async with self._sweeping.held_off(), self._alone(service_id):
            row = self._desired.row(service_id)
            if self._registry.running(service_id) is not None or self._desired.is_coming(service_id):
                raise CallerError(
                    f"{service_id} is not stopped",
                    code=Code.FAILED_PRECONDITION,
                    status=409,
                    hint=f"see how it is: insula show {service_id}",
                )
            try:
                package = await self._depot.get(row.digest)
                watch.done("read")
                return await self._replace(package, row.source, watch, plan=False, write=None)
            except InsulaError as error:
                self._desired.note_failure(service_id, str(error))
                raise

    async def undeploy(self, service_id: str) -> None:
        """See the contract."""
        async with self._alone(service_id):
            self._desired.row(service_id)
            if self._start is not None:
                await self._start.call_off(service_id)
            await carried_through(self._remove(service_id), f"undeploying {service_id}")
        log.info("%s undeployed", service_id)
        self._sweeping.later()

    async def _remove(self, service_id: str) -> None:
        with self._noting_doubt(service_id):
            await self._repository.remove(service_id)
        del self._desired.rows[service_id]
        self._desired.failed.pop(service_id, None)
        await self._attempts.forget(service_id)
        if self._registry.running(service_id) is not None:
            await self._retire(self._registry.remove(service_id))

    async def _change(self, package: Package, source: str, watch: Stopwatch, *, override: bool, plan: bool) -> Deployed:
        watch.done("read")
        service_id = str(package.service_id)
        async with self._alone(service_id, beside=self._desired.rows):
            present = self._desired.rows.get(service_id)
            if present is not None and not override and not plan:
                raise CallerError(
                    f"{service_id} is deployed already",
                    code=Code.ALREADY_EXISTS,
                    hint='replace it without a dropped request: --override, or "override": true',
                )

            async def write() -> DeploymentRow:
                return await self._repository.put(
                    service_id,
                    digest=package.digest,
                    version=package.config.version,
                    source=source,
                    deployed_at=_now(),
                    expected_digest=present.digest if present else None,
                )

            return await self._replace(package, source, watch, plan=plan, write=write)

    async def _replace(
        self,
        package: Package,
        source: str,
        watch: Stopwatch,
        *,
        plan: bool,
        write: Callable[[], Awaitable[DeploymentRow]] | None,
    ) -> Deployed:
        """The steps that every change shares, from a checked package to the flip. `write` is None where what runs from now
        on is written down already."""
        service_id = str(package.service_id)
        old = self._registry.running(service_id)
        generation = await self._staged(package, watch.done)
        if write is None:
            planned = [changes.STARTED, *changes.limits(generation.limits)]
        else:
            planned = changes.describe(generation, old)
        if plan:
            await generation.close()
        else:
            commit = self._commit(generation, watch, write)
            await carried_through(commit, f"the deployment of {service_id}")
            log.info("%s deployed: %s, %s", service_id, package.digest[:12], "; ".join(planned))
        return Deployed(
            service_id=service_id,
            status="planned" if plan else "deployed" if write else "started",
            endpoints=package.endpoints(latest=self._desired.leads(service_id)),
            digest=f"sha256:{package.digest}",
            version=package.config.version,
            source=source,
            changes=planned,
            steps=watch.steps,
        )

    async def _commit(
        self, generation: Generation, watch: Stopwatch, write: Callable[[], Awaitable[DeploymentRow]] | None
    ) -> None:
        """Writes down and flips. Whatever fails closes the generation."""
        service_id = str(generation.id)
        written = False
        try:
            self._check_running()
            self._registry.check(generation)
            if write is not None:
                with self._noting_doubt(service_id):
                    self._desired.rows[service_id] = await write()
                written = True
                watch.done("written")
            # From here to the flip nothing is awaited: what is written down is what runs.
            replaced = self._registry.install(generation, place=self._desired.place(service_id))
        except BaseException as error:
            if written:
                self._desired.note_failure(
                    service_id, str(error) if isinstance(error, InsulaError) else "internal error"
                )
            await generation.close()
            raise
        self._desired.failed.pop(service_id, None)
        watch.done("live")
        if replaced is not None:
            self._background.start(self._retire(replaced), f"the end of what {service_id} was before")
        await self._attempts.forget(service_id)

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

    # Parts

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
            await self._retire(self._registry.remove(service_id))

    @asynccontextmanager
    async def _alone(self, service_id: str, *, beside: Iterable[str] = ()) -> AsyncIterator[None]:
        """Claims the service, and its names against those of the services `beside` it."""
        self._check_running()
        with self._claims.claim(service_id, deployed=beside):
            await self._end_doubt(service_id)
            yield

    def _check_running(self) -> None:
        if self._stopping:
            raise UnavailableError("the server is stopping", hint="try again when it is up")

    async def _retire(self, generation: Generation) -> None:
        await generation.service.drain(self._drain_timeout)
        await generation.close()

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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
