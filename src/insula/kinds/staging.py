"""Staging: from a deployable that was read to a generation that answers calls, whatever its kind.

Staging does everything that can fail, in the order of what it costs: is the deployable granted what it asks for, is what it
publishes understood, does its module compile, has it the exports of its kind, are its imports there, does an instance come
up. Where one step fails, what the steps before it made is freed and the error is raised; nothing outside has changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from insula.calls import ServiceId
from insula.errors import CallerError, Code, DeadlineError, GuestError, LimitError, PackageError
from insula.host.catalogue import Catalogue
from insula.host.contract import Configured
from insula.host.grants import Grants
from insula.host.guest_log import GuestLogs
from insula.host.output import line_writer
from insula.host.scope import Home
from insula.kinds.catalogue import Kinds
from insula.kinds.contract import Granted
from insula.packages.deployable import MB, Deployable, ServiceLimits
from insula.plans import Plan
from insula.published import Published
from insula.schema.bounds import BODY_VALUES, Bounds
from insula.services.clock import Clock, LoopClock
from insula.services.generation import Generation
from insula.services.limits import InForce, in_force
from insula.services.service import Service, ServiceOptions
from insula.transcoding.service import Codecs, ServiceCodecs
from insula.wasm.contract import Engine, GuestLimits, Module, RefusalError, WasiOptions
from insula.wasm.guest_memory import whole_of_share

log = logging.getLogger("insula.kinds")

#: Seconds that the instances of a stopped service have to come back.
CLOSE_TIMEOUT = 60.0

#: GuestLimits by which a start fails for what the guest does; all others are shared with other services.
_ITS_OWN = frozenset(("memory_limit", "host_calls"))


@dataclass(frozen=True, slots=True)
class Workshop:
    """What generations are made with. `max_body` in bytes and `max_values` in JSON values bound a body; `max_timeout` in
    seconds bounds what a package asks for, `max_memory` bytes of one instance and `guest_memory` bytes of all instances of
    one service bound that as well. `overrides` are the operator's limits by service, with or without version: the keys of
    limits in a manifest, `body_bytes` and `body_values`. `idle_after` in seconds, `max_depth` in services that a call may
    come through."""

    engine: Engine
    kinds: Kinds
    catalogue: Catalogue
    grants: Grants
    logs: GuestLogs
    codecs: Codecs
    max_body: int = 4 * MB
    max_values: int = BODY_VALUES
    overrides: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    max_memory: int = 4096 * MB
    guest_memory: int = 1 << 62
    max_timeout: float = 60.0
    idle_after: float = 60.0
    max_depth: int = 8
    clock: Clock = field(default_factory=LoopClock)


async def stage(
    deployable: Deployable, workshop: Workshop, *, step: Callable[[str], None] = lambda _name: None
) -> Generation:
    """A ready generation of a deployable. `step` is told when one of `checked`, `compiled`, `ready` is done.

    Errors: CallerError `permission_denied` where it asks for more than it is granted, PackageError for what is wrong with
    it, LimitError where there is no room for it.
    """
    kind, service_id = workshop.kinds.of(deployable), deployable.service_id
    told = limits_of(deployable, workshop)
    limits = told.package_limits()
    granted = workshop.grants.decide(
        service_id, deployable.host_apis, deployable.options, workshop.catalogue.names, deployable.manifest
    )
    _check_memory(service_id, told, workshop)
    host = Granted(service_id, workshop.catalogue.configure(service_id, granted), workshop.catalogue.names)
    published = kind.published(deployable)
    codecs = await _codecs(deployable, published, told, workshop)
    step("checked")
    async with AsyncExitStack() as resources:
        module = await workshop.engine.load(deployable.module, deployable.module_digest)
        resources.callback(module.close)
        step("compiled")
        exchanges = kind.exchanges(published, module)
        _check_start(module, service_id, told)
        program = workshop.engine.link(
            module,
            kind.imports(deployable, module, host),
            GuestLimits(memory_bytes=limits.memory_mb * MB, output_bytes=limits.output_mb * MB),
            WasiOptions(write=line_writer(workshop.logs.of(service_id))),
            name=str(service_id),
        )
        resources.callback(program.close)
        service = Service(
            service_id,
            program,
            exchanges,
            _options(limits, workshop),
            life=kind.life(deployable, module),
            prepare=partial(_prepare, tuple(host.capabilities.values())),
            clock=workshop.clock,
        )
        resources.push_async_callback(_stopped, service)
        try:
            await service.start()
        except (GuestError, DeadlineError, LimitError, RefusalError) as error:
            if isinstance(error, LimitError) and error.reason not in _ITS_OWN:
                raise  # the server's own limits, which say nothing of the package
            raise PackageError(
                f"the module of {service_id} does not start: {error.message}",
                hint=told.hints().get(error.reason or "")
                or error.hint
                or "what it printed is in the server's log; `insula build` makes one that starts",
            ) from error
        plans = _plans(published, codecs, service, told)
        step("ready")
        return Generation(deployable, published, service, plans, told, resources.pop_all())


async def _codecs(
    deployable: Deployable, published: Published, told: InForce, workshop: Workshop
) -> ServiceCodecs | None:
    """The codecs of the methods, ready; None where there are no methods. PackageError for types that have none."""
    if published.schema is None or not published.methods:
        return None
    bounds = Bounds(told["body_bytes"].value, told.package_limits().output_mb * MB, told["body_values"].value)
    codecs = workshop.codecs.of(str(deployable.service_id), deployable.digest, published.schema, bounds)
    await codecs.prepare()
    return codecs


def _plans(published: Published, codecs: ServiceCodecs | None, service: Service, told: InForce) -> tuple[Plan, ...]:
    if codecs is None or published.schema is None:
        return ()
    hints, timeout = told.hints(), told["timeout_ms"].value / 1000
    signatures = {method.name: method for method in published.schema.service.methods}
    return tuple(
        Plan(
            service=published.service,
            method=method.name,
            read_only=method.read_only,
            policy=method.policy,
            timeout=timeout,
            max_body=told["body_bytes"].value,
            json=partial(codecs.json, signatures[method.name]),
            binary=partial(codecs.binary, signatures[method.name]),
            entrance=partial(service.entrance, method.name),
            doc=method.doc,
            hints=hints,
        )
        for method in published.methods
    )


def _prepare(capabilities: Iterable[Configured], home: Home) -> None:
    for capability in capabilities:
        capability.prepare(home)


def limits_of(deployable: Deployable, workshop: Workshop) -> InForce:
    """The limits that are in force for a deployable. CallerError where those of the operator contradict each other."""
    return in_force(
        deployable,
        workshop.overrides,
        body_bytes=workshop.max_body,
        body_values=workshop.max_values,
        request_timeout_ms=round(workshop.max_timeout * 1000),
        max_memory_mb=workshop.max_memory // MB,
    )


def _check_memory(service_id: ServiceId, limits: InForce, workshop: Workshop) -> None:
    """CallerError where a package is to have more memory than the operator lets one have, or one service."""
    memory, kept = limits["memory_mb"], limits["min_instances"]
    asked = memory.value
    if asked * MB > workshop.max_memory:
        raise CallerError(
            f"{service_id} asks for {asked} MiB of memory for each instance, by {memory.place} {memory.key}; at most "
            f"{workshop.max_memory // MB} MiB may be asked for",
            code=Code.PERMISSION_DENIED,
            reason="memory_limit",
            hint=f"lower it there; or to allow it, write in the server's configuration under [packages]: "
            f"max_memory_mb = {asked}",
        )
    least = asked * max(1, kept.value)
    if least * MB > workshop.guest_memory:
        instances = f" for each of {kept.value} instances, by {kept.place} {kept.key}" if kept.value > 1 else ""
        raise CallerError(
            f"{service_id} asks for {asked} MiB of memory, by {memory.place} {memory.key}{instances}; one service may have "
            f"{workshop.guest_memory // MB} MiB of what all guests of this server have together",
            code=Code.PERMISSION_DENIED,
            reason="guest_memory",
            hint="lower it there; or to allow it, write in the server's configuration under [limits]: "
            f"guest_memory_mb = {-(-whole_of_share(least * MB) // MB)}",
        )


def _check_start(module: Module, service_id: ServiceId, limits: InForce) -> None:
    """PackageError where a module begins with more memory than its instances may have."""
    needed, memory = -(-module.memory_bytes // MB), limits["memory_mb"]
    if needed > memory.value:
        raise PackageError(
            f"the module of {service_id} starts with {needed} MiB of memory and may have {memory.value} MiB, by "
            f"{memory.place} {memory.key}",
            reason="memory_limit",
            hint=limits.line("memory_mb", needed),
        )


def _options(limits: ServiceLimits, workshop: Workshop) -> ServiceOptions:
    return ServiceOptions(
        min_instances=limits.min_instances,
        max_instances=limits.max_instances,
        mailbox=limits.mailbox,
        idle_after=workshop.idle_after,
        max_depth=workshop.max_depth,
    )


async def _stopped(service: Service) -> None:
    service.stop()
    try:
        await asyncio.wait_for(service.closed(), CLOSE_TIMEOUT)
    except TimeoutError:
        log.error("%s: %s instances do not come back", service.id, service.in_flight)
