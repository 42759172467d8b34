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

import msgspec

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
from insula.services.service import Service, ServiceOptions
from insula.transcoding.service import Codecs
from insula.wasm.contract import Engine, Limits, WasiOptions

log = logging.getLogger("insula.services")

#: Seconds that the instances of a stopped service have to come back.
CLOSE_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Workshop:
    """What generations are made with. `max_body` in bytes and `max_values` in JSON values bound a body; `max_timeout` in
    seconds bounds what a package asks for, `max_memory` bytes of one instance and `guest_memory` of all instances of all
    services bound that as well. `overrides` are the operator's limits by service without version: the keys of limits in
    okra.json, `body_bytes` and `body_values`. `idle_after` in seconds, `max_depth` in services that a call may come
    through."""

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
    """A package, the service that runs it, and the plans of its methods. Whoever has it closes it."""

    def __init__(
        self, package: Package, service: Service, plans: tuple[Plan, ...], resources: AsyncExitStack | None = None
    ) -> None:
        self.id: ServiceId = service.id
        self.package = package
        self.service = service
        self.plans = plans
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
    given = workshop.overrides.get(service_id.unversioned, {})
    limits = _limits(config.limits, given)
    max_body = given.get("body_bytes", workshop.max_body)
    granted = workshop.grants.decide(service_id, config.host_apis, config.grants, workshop.catalogue.names)
    _check_memory(service_id, limits, workshop)
    operations = workshop.catalogue.configure(service_id, granted)
    methods = package.schema.service.methods
    bounds = Bounds(max_body, limits.output_mb * MB, given.get("body_values", workshop.max_values))
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
                hint=error.hint or "what it printed is in the server's log; `insula build` makes one that starts",
            ) from error
        plans = tuple(
            Plan(
                service=service_id,
                method=method.name,
                read_only=is_read_only(method),
                policy=policy,
                timeout=min(limits.timeout_ms / 1000, workshop.max_timeout),
                max_body=max_body,
                json=partial(codecs.json, method),
                binary=partial(codecs.binary, method),
                entrance=partial(service.entrance, method.name),
                doc=method.doc,
            )
            for method, policy in zip(methods, policies, strict=True)
        )
        step("ready")
        return Generation(package, service, plans, resources.pop_all())


def _limits(limits: ServiceLimits, given: Mapping[str, int]) -> ServiceLimits:
    """The limits of a package, overridden by those that the operator gives its service."""
    known = ServiceLimits.__struct_fields__
    return msgspec.structs.replace(limits, **{key: value for key, value in given.items() if key in known})


def _check_memory(service_id: ServiceId, limits: ServiceLimits, workshop: Workshop) -> None:
    """CallerError where a package asks for more memory than the operator lets one have, or all of them."""
    asked = limits.memory_mb
    if asked * MB > workshop.max_memory:
        raise CallerError(
            f"{service_id} asks for {asked} MiB of memory for each instance; at most "
            f"{workshop.max_memory // MB} MiB may be asked for",
            code=Code.PERMISSION_DENIED,
            reason="memory_limit",
            hint="lower limits.memory_mb in okra.json; or to allow it, write in the server's configuration under "
            f"[packages]: max_memory_mb = {asked}",
        )
    least = asked * max(1, limits.min_instances)
    if least * MB > workshop.guest_memory:
        raise CallerError(
            f"{service_id} asks for up to {least} MiB of memory for the instances that it always keeps; all guests "
            f"of this server have {workshop.guest_memory // MB} MiB together",
            code=Code.PERMISSION_DENIED,
            reason="guest_memory",
            hint="lower limits.memory_mb or limits.min_instances in okra.json; the operator may raise "
            "limits.guest_memory_mb of the server",
        )


def _options(limits: ServiceLimits, workshop: Workshop) -> ServiceOptions:
    most = 1 if limits.singleton else limits.max_instances
    return ServiceOptions(
        min_instances=min(limits.min_instances, most),
        max_instances=most,
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
