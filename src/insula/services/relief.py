"""Room for guests where memory is scarce: idle instances are closed before their time, of the largest services first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from insula.services.generation import Generation


def relieve(generations: Iterable[Generation], enough: Callable[[], bool], least: int) -> None:
    """Closes idle instances above each service's minimum, service by service, until `enough` answers True. A service with
    less than `least` bytes keeps its instances: it does not make room for a larger one."""
    services = [generation.service for generation in generations]
    for service in sorted(services, key=lambda one: one.memory, reverse=True):
        if service.memory < least or enough():
            return
        service.shed()
