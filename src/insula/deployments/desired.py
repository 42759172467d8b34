"""The desired state of this node: which services are to run, which of them do, and why the others do not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from insula.calls import ServiceId
from insula.deployments.contract import Listed
from insula.errors import CallerError, Code

if TYPE_CHECKING:
    from insula.services.registry import Registry
    from insula.storage.deployments import DeploymentRow

log = logging.getLogger("insula.deployments")


class Desired:
    """`rows` is the desired state in the order of deployment, `failed` says why a digest that is written down does not
    run. `is_coming` is true for a service that the start of the server has still to start."""

    def __init__(self, registry: Registry) -> None:
        self.rows: dict[str, DeploymentRow] = {}
        self.failed: dict[str, str] = {}
        self.is_coming: Callable[[str], bool] = lambda _: False
        self._registry = registry

    def row(self, service_id: str) -> DeploymentRow:
        """A deployed service; CallerError where this is none, or the name of one without its version."""
        row = self.rows.get(service_id)
        if row is None:
            if (generation := self._registry.find(service_id)) is not None:
                raise CallerError(f"{service_id} names no version", hint=f"write {generation.id}")
            ServiceId.parse(service_id)
            raise CallerError(f"{service_id} is not deployed", code=Code.NOT_FOUND, hint="see what is: insula list")
        return row

    def note_failure(self, service_id: str, why: str) -> None:
        """Says in the log and in lists why a service does not start."""
        self.failed[service_id] = why
        log.error("%s does not start: %s", service_id, why)

    def listed(self, row: DeploymentRow) -> Listed:
        """How a deployed service is."""
        generation = self._registry.running(row.service_id)
        absent = "starting" if self.is_coming(row.service_id) else "stopped"
        return Listed(
            id=row.service_id,
            source=row.source,
            deployed_at=row.deployed_at,
            state=generation.service.state.value if generation else absent,
            digest=f"sha256:{row.digest}",
            version=row.version,
            last_error=generation.service.last_error if generation else self.failed.get(row.service_id),
        )

    def stopped(self, name: str) -> str | None:
        """The full id of a service that is deployed and does not run, by that or by its name without version."""
        for service_id in self.failed:
            if (
                name in (service_id, ServiceId.parse(service_id).unversioned)
                and self._registry.running(service_id) is None
            ):
                return service_id
        return None

    def place(self, service_id: str) -> int:
        """Where a service stands among those that run: one that did not start at first keeps its place in the order."""
        place = 0
        for other in self.rows:
            if other == service_id:
                break
            place += self._registry.running(other) is not None
        return place

    def leads(self, service_id: str) -> bool:
        """Whether paths without a version lead to this one, or will once it is deployed: none that runs is later."""
        later = list(self.rows)[list(self.rows).index(service_id) + 1 :] if service_id in self.rows else []
        name = ServiceId.parse(service_id).unversioned
        return not any(ServiceId.parse(one).unversioned == name and self._registry.running(one) for one in later)
