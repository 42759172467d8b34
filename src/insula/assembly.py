"""The one place that knows every room: it makes the parts of a server from the settings and joins them.

`assembled` is an async context: what it makes, it takes apart in reverse. Nothing listens yet and no service runs;
`server.py` opens the doors and then starts what is deployed (`House.start`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

import insula
from insula.api.admin import admin_application
from insula.api.parts import AdminParts
from insula.background import told
from insula.deployments.attempts import Attempts
from insula.deployments.manager import DeploymentManager
from insula.edge.admission import Draining, Identified
from insula.edge.app import Application
from insula.edge.backlog import Backlog
from insula.edge.metrics import Metrics
from insula.edge.page import LISTED
from insula.edge.plain import PLAIN_LABELS, Status, Welcome, plain_routes
from insula.edge.plain import Sources as Told
from insula.edge.routes import RouteTable
from insula.gateways.connect import ConnectGateway
from insula.gateways.contract import Offer
from insula.gateways.joined import Gateways
from insula.gateways.missing import missing_route
from insula.host import catalogue
from insula.host.grants import Grants
from insula.host.guest_log import GuestLogs
from insula.host.services import HostServices
from insula.kinds import catalogue as kinds
from insula.kinds.contract import Kind
from insula.kinds.staging import Workshop, stage
from insula.loopback import is_loopback
from insula.packages.deployable import Deployable
from insula.packages.depot import Depot
from insula.packages.sources import SourceOptions, Sources
from insula.services.exposition import families
from insula.services.generation import Generation
from insula.services.registry import Registry, Table
from insula.services.relief import relieve
from insula.settings import Settings
from insula.settings.sections import LimitSettings
from insula.storage.database import Database
from insula.storage.deployments import DeploymentRepository
from insula.storage.folder import DataFolder
from insula.storage.guest_state import StateRepository
from insula.times import rfc3339
from insula.transcoding.processes import CodecProcesses
from insula.transcoding.service import Codecs
from insula.transcoding.store import MessageStore
from insula.wasm.engine import NativeEngine


@dataclass
class Facts:
    """What the plain pages tell about the server. `ready` is true between the end of the start and the first signal, which
    sets `draining`."""

    ready: bool = False
    draining: bool = False
    started: float = field(default_factory=time.monotonic)
    connections: Callable[[], int] = lambda: 0
    public_url: str = ""
    admin_url: str = ""

    def state(self) -> str:
        """ "" once calls are taken, else `starting` or `draining`."""
        return "" if self.ready else "draining" if self.draining else "starting"


@dataclass(frozen=True)
class House:
    """A server that stands and does not listen: its two applications, and what changes what they serve."""

    public: Application
    admin: Application
    manager: DeploymentManager
    depot: Depot
    metrics: Metrics
    facts: Facts

    async def start(self) -> None:
        """Starts what is deployed."""
        await self.manager.start()

    def drain(self) -> None:
        """New work is refused from now on. Idempotent."""
        if not self.facts.draining:
            self.facts.ready, self.facts.draining = False, True
            self.public.rules = (Draining(always=PLAIN_LABELS), *self.public.rules)


@asynccontextmanager
async def assembled(settings: Settings, more_kinds: Sequence[Kind] = ()) -> AsyncIterator[House]:
    """Makes every part, and on the way out drains and closes all of it. `more_kinds` are deployed beside those that come
    with Insula.

    ConfigurationError where the data folder, the database, a capability or a kind cannot be used.
    """
    folder = await asyncio.to_thread(DataFolder.open, settings.server.data_dir)
    try:
        url = settings.storage.url
        database = await Database.open(url.reveal() if url else folder.path / "insula.db")
        try:
            async with _standing(settings, folder, database, more_kinds) as house:
                yield house
        finally:
            await database.close()
    finally:
        folder.close()


@asynccontextmanager
async def _standing(
    settings: Settings, folder: DataFolder, database: Database, more_kinds: Sequence[Kind]
) -> AsyncIterator[House]:
    limits = settings.limits
    registry, facts, logs = Registry(), Facts(), GuestLogs()
    engine = await NativeEngine.open(
        folder.path / "modules",
        threads=limits.threads,
        compile_timeout=settings.packages.compile_timeout_ms / 1000,
        compile_memory=settings.packages.compile_memory_mb << 20,
        guest_memory=limits.guest_memory_mb << 20,
    )
    processes = CodecProcesses(memory=limits.codec_memory_mb << 20, queue=limits.held_mb << 20)
    memory = engine.guest_memory
    memory.relieve = lambda enough, least: relieve(registry.generations, enough, least)
    attempts = await asyncio.to_thread(Attempts.open, folder.path)
    try:
        state = StateRepository(database)
        host = HostServices(logs=logs, env=settings.env, find=registry.plan, state=state)
        workshop = Workshop(
            engine=engine,
            kinds=await asyncio.to_thread(kinds.load, more_kinds),
            catalogue=await asyncio.to_thread(catalogue.load, host),
            grants=Grants(settings.grants.default, settings.grants.allow, settings.grants.deny),
            logs=logs,
            codecs=Codecs(processes, MessageStore()),
            max_body=limits.body_bytes,
            max_values=limits.body_values,
            overrides={
                name: {key: value for key, value in msgspec.structs.asdict(own).items() if value is not None}
                for name, own in limits.services.items()
            },
            max_memory=settings.packages.max_memory_mb << 20,
            guest_memory=memory.share,
            max_timeout=limits.request_timeout_ms / 1000,
        )
        depot = Depot(folder.path / "depot", tuple(workshop.kinds), max_bytes=settings.packages.max_bytes)

        async def stage_deployable(deployable: Deployable, step: Callable[[str], None]) -> Generation:
            return await stage(deployable, workshop, step=step)

        manager = DeploymentManager(
            sources=Sources(depot, _source_options(settings)),
            depot=depot,
            repository=DeploymentRepository(database, folder.node_id),
            registry=registry,
            attempts=attempts,
            stage=stage_deployable,
            drain_timeout=limits.drain_timeout_ms / 1000,
        )
        metrics = Metrics(lambda: facts.connections())
        metrics.add(lambda: families(registry.generations, logs.dropped, memory.held))
        public = _public(registry, metrics, facts, limits, manager.stopped)
        admin = _admin(settings, manager, metrics, facts)
        house = House(
            public=public,
            admin=admin,
            manager=manager,
            depot=depot,
            metrics=metrics,
            facts=facts,
        )
        await manager.load()
        sweeping = told(asyncio.create_task(state.keep_swept()), "sweeping expired state", endless=True)
        try:
            yield house
        finally:
            sweeping.cancel()
            await asyncio.wait((sweeping,))
            await manager.stop()
            for application in (public, admin):
                application.metrics.close()
                application.close()
    finally:
        await processes.close()
        await engine.close()
        attempts.close()


def _public(
    registry: Registry,
    metrics: Metrics,
    facts: Facts,
    limits: LimitSettings,
    stopped: Callable[[str], str | None],
) -> Application:
    told: dict[tuple[Table, str], Welcome] = {}  # the last one

    def welcome() -> Welcome:
        """The same Welcome until the table changes, so that its pages are made once."""
        key = (registry.table, facts.admin_url)
        if key not in told:
            told.clear()
            told[key] = _welcome(*key)
        return told[key]

    def status() -> Status:
        return Status(insula.__version__, time.monotonic() - facts.started, facts.connections(), limits.max_connections)

    fixed = list(plain_routes(Told(welcome, facts.state, status, metrics)))
    application = Application(
        RouteTable(fixed),
        missing=missing_route(stopped, lambda: facts.state() == "starting"),
        rules=(Identified(),),
        metrics=metrics,
        backlog=Backlog(limits.held_mb << 20),
    )
    gateways = Gateways(application, (ConnectGateway(application.offload),))
    offers: dict[tuple[Generation, bool], Offer] = {}

    def follow(table: Table) -> Callable[[], None]:
        """The routes of a new table. A generation that stays has the offer that it had."""
        leads, present = table.by_name, {}
        for generation in table.generations:
            key = generation, leads[generation.id.unversioned] is generation
            present[key] = offers.get(key) or Offer(generation.published, generation.plans, latest=key[1])
        settle_routes = gateways.follow(tuple(present.values()))

        def settle() -> None:
            nonlocal offers
            settle_routes()
            offers = present

        return settle

    registry.follow(follow)
    return application


def _welcome(table: Table, admin_url: str) -> Welcome:
    links = {"/health": "whether this server is well", "/metrics": "what it has counted, for Prometheus"}
    if admin_url:
        links[admin_url] = "the admin API, on this machine: deploy, list, roll back, undeploy"
    paths = [
        path
        for generation in table.generations
        for path in generation.published.endpoints(latest=table.by_name[generation.id.unversioned] is generation)
    ]
    return Welcome(
        "Insula",
        insula.__version__,
        "A WebAssembly application server. Its services answer a POST of JSON at each of these paths.",
        links,
        tuple(paths[:LISTED]),
        more=len(paths) - len(paths[:LISTED]),
    )


def _admin(settings: Settings, manager: DeploymentManager, metrics: Metrics, facts: Facts) -> Application:
    def health() -> dict[str, object]:
        return {
            "status": "healthy" if facts.ready else "unhealthy",
            "timestamp": rfc3339(),
        }

    token = settings.admin_token
    return admin_application(
        AdminParts(
            deployments=manager,
            version=insula.__version__,
            max_bytes=settings.packages.max_bytes,
            read_timeout=settings.packages.read_timeout_ms / 1000,
            status=lambda: facts.state() or "healthy",
            public_url=lambda: facts.public_url,
            health=health,
            metrics=metrics.exposition,
        ),
        token=token.reveal() if token else "",
    )


def _source_options(settings: Settings) -> SourceOptions:
    """On a loopback admin port any file may be read; on another only what `[sources] roots` names."""
    roots: tuple[Path, ...] | None = settings.sources.roots
    if not roots and is_loopback(settings.server.admin_host):
        roots = None
    return SourceOptions(
        roots=roots,
        max_bytes=settings.packages.max_bytes,
        allow_private=settings.sources.allow_private,
        allow_http=settings.sources.allow_http,
        timeout=settings.packages.read_timeout_ms / 1000,
    )
