"""What the server gives to the code that makes a capability, a built-in one and a stranger's alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from insula.errors import CallerError, Code
from insula.host.guest_log import GuestLogs
from insula.plans import Plan

if TYPE_CHECKING:
    from insula.storage.guest_state import StateRepository


def no_services(service: str, _method: str) -> Plan:
    """The plan lookup of a host without services."""
    raise CallerError(f"no service {service[:80]!r} is deployed here", code=Code.UNIMPLEMENTED)


@dataclass(frozen=True, slots=True)
class HostServices:
    """`find` gives the plan of a method by service (full id or name without version) and method name, or CallerError.
    `env` is what the operator set for each service, by its name without version or its full id. `state` is where
    `okra.state` keeps its values; None on a server without storage, which then has no such API."""

    logs: GuestLogs = field(default_factory=GuestLogs)
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    find: Callable[[str, str], Plan] = no_services
    state: StateRepository | None = None
