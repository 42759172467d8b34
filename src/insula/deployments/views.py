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
    deployable, service = generation.deployable, generation.service
    endpoints = generation.published.endpoints(latest=latest)
    methods = [
        Method(
            name=method.name,
            endpoint=endpoint,
            input=method.input,
            output=method.output,
            read_only=method.read_only,
            authenticated=method.policy.authenticated,
            doc=method.doc,
        )
        for method, endpoint in zip(generation.published.methods, endpoints, strict=False)  # other paths follow
    ]
    return Shown(
        **base,
        latest=latest,
        endpoints=endpoints,
        methods=methods,
        host_apis=list(deployable.host_apis),
        grants={api: dict(options) for api, options in deployable.options.items()},
        limits=generation.limits.values(),
        limits_from=generation.limits.elsewhere(),
        instances=service.instances(),
        mailbox=service.mailbox(),
        previous=previous,
    )
