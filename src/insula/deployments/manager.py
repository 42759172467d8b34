"""What is to run, and the one way to change it.

The desired state is in the database, the packages are in the depot, what runs is in the registry. A deploy goes through
the same steps whatever it comes from: the package is read and checked into the depot, staged as a new generation
(granted, compiled, linked, started), written down, flipped in, and only then is the old generation drained. Everything
that can fail does so before it is written down, and leaves all as it was. What is written down is acknowledged: after a
kill the next start runs it.

One change of a service at a time: a second one is refused at once with 409 rather than queued, so that its sender decides
by what it then sees. Different services deploy side by side.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from insula.calls import ServiceId
from insula.deployments import changes, views
from insula.deployments.contract import Deployed, Listed, Shown, Step
from insula.deployments.gate import Gate
from insula.errors import CallerError, Code, InsulaError, UnavailableError

if TYPE_CHECKING:
    from insula.packages.depot import Depot
    from insula.packages.package import Package
    from insula.packages.sources import Sources
    from insula.services.generation import Generation
    from insula.services.registry import Registry
    from insula.storage.deployments import DeploymentRepository, DeploymentRow

log = logging.getLogger("insula.deployments")

#: How many generations are staged at once when the server starts.
START_WIDTH = 4


class Stopwatch:
    """The steps of one deploy and how long each took."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._since = time.perf_counter()

    def done(self, name: str) -> None:
        """Ends a step that began when the one before it ended."""
        now = time.perf_counter()
        self.steps.append(Step(name, round((now - self._since) * 1000, 1)))
        self._since = now


class DeploymentManager:
    """Implements `contract.Deployments`. Lives on the event loop; `start` once before, `stop` once after.

    `stage` makes a running generation of a package: it raises and leaves nothing behind, or its result is ready.
    """

    def __init__(
        self,
        *,
        sources: Sources,
        depot: Depot,
        repository: DeploymentRepository,
        registry: Registry,
        stage: Callable[[Package, Callable[[str], None]], Awaitable[Generation]],
        drain_timeout: float,
    ) -> None:
        self._sources = sources
        self._depot = depot
        self._repository = repository
        self._registry = registry
        self._stage = stage
        self._drain_timeout = drain_timeout
        self._rows: dict[str, DeploymentRow] = {}  # desired state, in the order of deployment
        self._failed: dict[str, str] = {}  # service id -> why the present digest does not run
        self._uncertain: set[str] = set()  # services whose last change may or may not have been written down
        self._foreign: frozenset[str] = frozenset()  # packages in the depot that are not this database's to sweep
        self._changing: set[str] = set()
        self._depot_gate = Gate()
        self._sweep_due = False
        self._background: set[asyncio.Task[None]] = set()
        self._stopping = False

    # Life

    async def start(self) -> None:
        """Runs what the database says. A service that cannot start is logged, shown as stopped, and stops no other."""
        rows = await self._repository.all()
        self._rows = {row.service_id: row for row in rows}
        if not rows:
            await self._keep_what_is_there()
        gate = asyncio.Semaphore(START_WIDTH)

        async def prepare(row: DeploymentRow) -> Generation | None:
            async with gate:
                try:
                    return await self._stage(await self._depot.get(row.digest), lambda _: None)
                except InsulaError as error:
                    self._failed[row.service_id] = str(error)
                    log.error("%s does not start: %s", row.service_id, error)
                except Exception:
                    self._failed[row.service_id] = "internal error"
                    log.exception("%s does not start", row.service_id)
                return None

        prepared = zip(rows, await asyncio.gather(*map(prepare, rows)), strict=True)
        await self._install([(row, generation) for row, generation in prepared if generation is not None])
        self._sweep_later()

    async def _install(self, started: list[tuple[DeploymentRow, Generation]]) -> None:
        """All at once; where they do not go together, one after the other, as they were deployed."""
        try:
            self._registry.fill([generation for _, generation in started])
        except InsulaError:
            for row, generation in started:
                try:
                    self._registry.install(generation)
                except InsulaError as error:
                    self._failed[row.service_id] = str(error)
                    log.error("%s does not start: %s", row.service_id, error)
                    await generation.close()

    async def _keep_what_is_there(self) -> None:
        """A database that knows of no deployment beside a depot with packages is most likely another one than they were
        deployed with (a wrong URL, a file that was lost): with the right one they will be needed again."""
        self._foreign = await self._depot.digests()
        if self._foreign:
            log.warning(
                "the depot has %d packages and the database no deployment: is it the right one? The packages are kept",
                len(self._foreign),
            )

    async def stop(self) -> None:
        """Refuses further changes, waits for those under way within the drain time, then stops every service."""
        self._stopping = True
        if self._background:
            await asyncio.wait(self._background, timeout=self._drain_timeout)
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
            present = self._row(service_id)
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

    async def undeploy(self, service_id: str) -> None:
        """See the contract."""
        async with self._alone(service_id):
            self._row(service_id)
            with self._noting_doubt(service_id):
                await self._repository.remove(service_id)
            del self._rows[service_id]
            self._failed.pop(service_id, None)
            if self._registry.find(service_id) is not None:
                await self._retire(self._registry.remove(service_id))
        log.info("%s undeployed", service_id)
        self._sweep_later()

    async def _change(self, package: Package, source: str, watch: Stopwatch, *, override: bool, plan: bool) -> Deployed:
        watch.done("read")
        service_id = str(package.service_id)
        async with self._alone(service_id):
            present = self._rows.get(service_id)
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
        write: Callable[[], Awaitable[DeploymentRow]],
    ) -> Deployed:
        """The steps that every change shares, from a checked package to the flip."""
        service_id = str(package.service_id)
        old = self._registry.find(service_id)
        generation = await self._stage(package, watch.done)
        try:
            self._registry.check(generation)
            planned = changes.describe(package, old.package if old else None)
            if not plan:
                with self._noting_doubt(service_id):
                    row = await write()
                watch.done("written")
        except BaseException:
            await generation.close()
            raise
        if plan:
            await generation.close()
        else:
            # From here to the end nothing can fail and nothing is awaited: what is written down is what runs.
            self._rows[service_id] = row
            self._failed.pop(service_id, None)
            replaced = self._registry.install(generation, place=self._place(service_id))
            watch.done("live")
            log.info("%s deployed: %s, %s", service_id, package.digest[:12], "; ".join(planned))
            if replaced is not None:
                self._later(self._retire(replaced))
        return Deployed(
            service_id=service_id,
            status="planned" if plan else "deployed",
            endpoints=package.endpoints(latest=self._leads(service_id)),
            digest=f"sha256:{package.digest}",
            version=package.config.version,
            source=source,
            changes=planned,
            steps=watch.steps,
        )

    # Views

    def list(self) -> list[Listed]:
        """See the contract."""
        return [self._listed(row) for row in self._rows.values()]

    async def show(self, service_id: str) -> Shown:
        """See the contract."""
        row = self._row(service_id)
        generation = self._registry.find(service_id)
        latest = generation is not None and self._leads(service_id)
        previous = [f"sha256:{entry.digest}" for entry in await self._repository.previous(service_id)]
        failed = self._failed.get(service_id)
        return views.show(self._listed(row), generation, latest=latest, failed=failed, previous=previous)

    def stopped(self, name: str) -> str | None:
        """The full id of a service that is deployed and does not run, by that or by its name without version."""
        for service_id in self._failed:
            if (
                name in (service_id, ServiceId.parse(service_id).unversioned)
                and self._registry.find(service_id) is None
            ):
                return service_id
        return None

    def _listed(self, row: DeploymentRow) -> Listed:
        generation = self._registry.find(row.service_id)
        return Listed(
            id=row.service_id,
            source=row.source,
            deployed_at=row.deployed_at,
            state=generation.service.state.value if generation else "stopped",
            digest=f"sha256:{row.digest}",
            version=row.version,
        )

    # Parts

    def _row(self, service_id: str) -> DeploymentRow:
        if (generation := self._registry.find(service_id)) is not None and str(generation.id) != service_id:
            raise CallerError(f"{service_id} names no version", hint=f"write {generation.id}")
        ServiceId.parse(service_id)
        row = self._rows.get(service_id)
        if row is None:
            raise CallerError(f"{service_id} is not deployed", code=Code.NOT_FOUND, hint="see what is: insula list")
        return row

    def _place(self, service_id: str) -> int:
        """Where a service stands among those that run: one that did not start at first keeps its place in the order."""
        place = 0
        for other in self._rows:
            if other == service_id:
                break
            place += self._registry.find(other) is not None
        return place

    def _leads(self, service_id: str) -> bool:
        """Whether paths without a version lead to this one, or will once it is deployed: none that runs is later."""
        later = list(self._rows)[list(self._rows).index(service_id) + 1 :] if service_id in self._rows else []
        name = ServiceId.parse(service_id).unversioned
        return not any(ServiceId.parse(one).unversioned == name and self._registry.find(one) for one in later)

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
            self._rows[service_id] = row
        elif self._rows.pop(service_id, None) is not None and self._registry.find(service_id) is not None:
            await self._retire(self._registry.remove(service_id))

    @asynccontextmanager
    async def _alone(self, service_id: str) -> AsyncIterator[None]:
        if self._stopping:
            raise UnavailableError("the server is stopping", hint="try again when it is up")
        if service_id in self._changing:
            raise CallerError(
                f"another change of {service_id} is under way",
                code=Code.ABORTED,
                hint="wait for it, look at the result with `insula list`, and try again",
            )
        self._changing.add(service_id)
        try:
            await self._end_doubt(service_id)
            yield
        finally:
            self._changing.discard(service_id)

    async def _retire(self, generation: Generation) -> None:
        await generation.service.drain(self._drain_timeout)
        await generation.close()

    @asynccontextmanager
    async def _changing_depot(self) -> AsyncIterator[None]:
        """From the first byte of a package to the flip, nothing is swept; afterwards what nobody needs is."""
        try:
            async with self._depot_gate.shared():
                yield
        finally:
            self._sweep_later()

    def _sweep_later(self) -> None:
        if not self._sweep_due and not self._stopping:
            self._sweep_due = True
            self._later(self._sweep())

    async def _sweep(self) -> None:
        async with self._depot_gate.alone():
            self._sweep_due = False
            try:
                await self._depot.sweep(self._foreign | await self._repository.digests())
            except InsulaError as error:
                log.warning("the depot was not swept: %s", error)

    def _later(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _told(source: str) -> str:
    """The source as it is written down and listed: a query is cut off, since a presigned URL has its key there."""
    return source.partition("?")[0].partition("#")[0]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
