"""A deployed service in full, for people and programs."""

from __future__ import annotations

import msgspec

from insula.deployments.contract import Listed, Method, Shown
from insula.services.generation import Generation


def show(listed: Listed, generation: Generation | None, *, latest: bool, previous: list[str]) -> Shown:
    """`generation` is None where the present digest does not run."""
    base = msgspec.structs.asdict(listed)
    if generation is None:
        return Shown(**base, previous=previous)
    package, service = generation.package, generation.service
    endpoints = package.endpoints(latest=latest)
    signatures = {method.name: method for method in package.schema.service.methods}
    methods = [
        Method(
            name=plan.method,
            endpoint=endpoint,
            input=signatures[plan.method].input_type,
            output=signatures[plan.method].output_type,
            read_only=plan.read_only,
            authenticated=plan.policy.authenticated,
            doc=plan.doc,
        )
        for plan, endpoint in zip(generation.plans, endpoints, strict=True)
    ]
    return Shown(
        **base,
        latest=latest,
        endpoints=endpoints,
        methods=methods,
        host_apis=list(package.config.host_apis),
        grants={api: dict(options) for api, options in package.config.grants.items()},
        limits=generation.limits.values(),
        limits_from=generation.limits.elsewhere(),
        instances=service.instances(),
        mailbox=service.mailbox(),
        previous=previous,
    )
