"""Room for guests where there is little: idle instances are closed before their time, the most numerous first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from insula.services.generation import Generation


def relieve(generations: Iterable[Generation], enough: Callable[[], bool]) -> None:
    """Closes what is idle above each service's minimum, service by service, until that is `enough`."""
    for generation in sorted(generations, key=lambda one: one.service.instances()["idle"], reverse=True):
        if enough():
            return
        generation.service.shed()
