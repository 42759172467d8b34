"""One deployed deployable at work: an immutable generation, staged beside the one that runs and closed after it.

A generation that was staged (`kinds/staging.py`) answers calls, and nobody can find it until the registry has it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from insula.calls import ServiceId
from insula.packages.deployable import Deployable
from insula.plans import Plan
from insula.published import Published
from insula.services.limits import InForce
from insula.services.service import Service


class Generation:
    """A deployable, what it publishes, the service that runs it, the plans of its methods, and the limits that are in force
    for it. The code that staged or replaced a generation closes it."""

    def __init__(
        self,
        deployable: Deployable,
        published: Published,
        service: Service,
        plans: tuple[Plan, ...],
        limits: InForce,
        resources: AsyncExitStack | None = None,
    ) -> None:
        self.id: ServiceId = service.id
        self.deployable = deployable
        self.published = published
        self.service = service
        self.plans = plans
        self.limits = limits
        self.by_method = {plan.method: plan for plan in plans}
        self._resources = resources or AsyncExitStack()

    async def close(self) -> None:
        """Stops the service and frees module and instances. Idempotent; `service.drain` first where calls matter."""
        self.service.stop()
        await self._resources.aclose()
