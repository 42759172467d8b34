"""One deployed package at work: an immutable generation, staged beside the one that runs and closed after it.

Staging does everything that can fail, in the order of what it costs: is the package granted what it asks for, are its
schema and its directives understood, does its module compile, has it the exports of its ABI, are its imports there, does
an instance come up. Where one step fails, what the steps before it made is freed and the error is raised; nothing outside
has changed. A generation that was staged answers calls, and nobody can find it until the registry has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from insula.abi.contract import Abi
from insula.calls import ServiceId
from insula.errors import CallerError, Code, DeadlineError, GuestError, LimitError, PackageError
from insula.host.broker import Broker
from insula.host.catalogue import Catalogue
from insula.host.grants import Grants
from insula.host.guest_log import GuestLogs
from insula.host.output import line_writer
from insula.packages.package import MB, Package, ServiceLimits
from insula.plans import Plan
from insula.schema.bounds import BODY_VALUES, Bounds
from insula.schema.policy import is_read_only, is_stream, policy_of
from insula.services.clock import Clock, LoopClock
from insula.services.limits import InForce, in_force
from insula.services.service import Service, ServiceOptions
from insula.transcoding.service import Codecs
from insula.wasm.contract import Engine, Limits, Module, WasiOptions
from insula.wasm.guest_memory import whole_of_share

log = logging.getLogger("insula.services")

#: Seconds that the instances of a stopped service have to come back.
CLOSE_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Workshop:
    """What generations are made with. `max_body` in bytes and `max_values` in JSON values bound a body; `max_timeout` in
    seconds bounds what a package asks for, `max_memory` bytes of one instance and `guest_memory` bytes of all instances of
    one service bound that as well. `overrides` are the operator's limits by service, with or without version: the keys of
    limits in okra.json, `body_bytes` and `body_values`. `idle_after` in seconds, `max_depth` in services that a call may
    come through."""

    engine: Engine
    abi: Abi
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


class Generation:
    """A package, the service that runs it, the plans of its methods, and the limits that are in force for it. The
    code that staged or replaced a generation closes it."""

    def __init__(
        self,
        package: Package,
        service: Service,
        plans: tuple[Plan, ...],
        limits: InForce,
        resources: AsyncExitStack | None = None,
    ) -> None:
        self.id: ServiceId = service.id
        self.package: Package = package
        self.service = service
        self.plans = plans
        self.limits = limits
        self.by_method = {plan.method: plan for plan in plans}
        self._resources = resources or AsyncExitStack()

    async def close(self) -> None:
        """Stops the service and frees module and instances. Idempotent; `service.drain` first where calls matter."""
        self.service.stop()
        await self._resources.aclose()


async def stage(
    package: Package, workshop: Workshop, *, step: Callable[[str], None] = lambda _name: None
) -> Generation:
    """A ready generation of a package. `step` is told when one of `checked`, `compiled`, `ready` is done.

    Errors: CallerError `permission_denied` where the package asks for more than it is granted, PackageError for what is
    wrong with the package, LimitError where there is no room for it.
    """
    config, service_id = package.config, package.service_id
    told = limits_of(package, workshop)
    limits, max_body, hints = told.package_limits(), told["body_bytes"].value, told.hints()
    granted = workshop.grants.decide(service_id, config.host_apis, config.grants, workshop.catalogue.names)
    _check_memory(service_id, told, workshop)
    operations = workshop.catalogue.configure(service_id, granted)
    methods = package.schema.service.methods
    bounds = Bounds(max_body, limits.output_mb * MB, told["body_values"].value)
    codecs = workshop.codecs.of(str(service_id), package.digest, package.schema, bounds)
    await codecs.prepare()
    policies = [policy_of(method) for method in methods]
    step("checked")
    async with AsyncExitStack() as resources:
        module = await workshop.engine.load(package.wasm, package.wasm_digest)
        resources.callback(module.close)
        step("compiled")
        abi = workshop.abi
        abi.check(module.exports, module.has_memory)
        _check_start(module, service_id, told)
        guest_log = workshop.logs.of(service_id)
        program = workshop.engine.link(
            module,
            abi.imports(Broker(service_id, operations, workshop.catalogue.names).functions()),
            Limits(memory_bytes=limits.memory_mb * MB, output_bytes=limits.output_mb * MB),
            WasiOptions(write=line_writer(guest_log)),
            name=str(service_id),
        )
        resources.callback(program.close)
        service = Service(
            service_id,
            program,
            {
                method.name: None if is_stream(method) else abi.exchange(module.exports, method.name, number)
                for number, method in enumerate(methods)
            },
            _options(limits, workshop),
            clock=workshop.clock,
        )
        resources.push_async_callback(_stopped, service)
        try:
            await service.start()
        except (GuestError, DeadlineError, LimitError) as error:
            if isinstance(error, LimitError) and error.reason != "memory_limit":
                raise  # the server's own limits, which say nothing of the package
            raise PackageError(
                f"the module of {service_id} does not start: {error.message}",
                hint=hints.get(error.reason or "")
                or error.hint
                or "what it printed is in the server's log; `insula build` makes one that starts",
            ) from error
        plans = tuple(
            Plan(
                service=service_id,
                method=method.name,
                read_only=is_read_only(method),
                policy=policy,
                timeout=limits.timeout_ms / 1000,
                max_body=max_body,
                json=partial(codecs.json, method),
                binary=partial(codecs.binary, method),
                entrance=partial(service.entrance, method.name),
                doc=method.doc,
                hints=hints,
            )
            for method, policy in zip(methods, policies, strict=True)
        )
        step("ready")
        return Generation(package, service, plans, told, resources.pop_all())


def limits_of(package: Package, workshop: Workshop) -> InForce:
    """The limits that are in force for a package. CallerError where those of the operator contradict each other."""
    return in_force(
        package,
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
