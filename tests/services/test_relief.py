"""Which idle instances make room for others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from insula.services.generation import Generation
from insula.services.relief import relieve


class Service:
    def __init__(self, name: str, memory: int, closed: list[str]) -> None:
        self.name, self.memory, self._closed = name, memory, closed

    def shed(self) -> None:
        self._closed.append(self.name)


def made(closed: list[str], **memory: int) -> list[Generation]:
    services = [Service(name, size, closed) for name, size in memory.items()]
    return [cast("Generation", SimpleNamespace(service=service)) for service in services]


def test_the_largest_service_closes_its_idle_instances_first_and_no_more_than_enough() -> None:
    closed: list[str] = []
    relieve(made(closed, small=10, large=300, middle=100), lambda: len(closed) == 2, 0)
    assert closed == ["large", "middle"]


def test_a_service_makes_no_room_for_one_that_has_more() -> None:
    closed: list[Any] = []
    relieve(made(closed, small=10, large=300, middle=100), lambda: False, 100)
    assert closed == ["large", "middle"]
