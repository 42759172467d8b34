"""The end of a connection by a clock and a transport that are looked into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from insula.edge.ending import Ending
from insula.edge.limits import ConnectionLimits

LIMITS = ConnectionLimits(linger=2.0, write_timeout=30.0, min_rate=100.0)


class Clock:
    """A loop whose timers are run by hand."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.cancelled = 0

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Clock:
        self.timers.append((seconds, callback))
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def ring(self) -> float:
        """Runs the only timer; how long it was set for."""
        [(seconds, callback)] = self.timers
        self.timers.clear()
        callback()
        return seconds


class Wire:
    """A transport that notes what is done to it."""

    def __init__(self, *, halves: bool = True) -> None:
        self.done: list[str] = []
        self.unsent = 0
        self._halves = halves

    def can_write_eof(self) -> bool:
        return self._halves

    def is_closing(self) -> bool:
        return "close" in self.done or "abort" in self.done

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.done.append(name)


def made(*, halves: bool = True) -> tuple[Ending, Wire, Clock]:
    wire, clock = Wire(halves=halves), Clock()
    transport: Any = wire
    loop: Any = clock
    return Ending(transport, loop, LIMITS), wire, clock


def test_our_half_ends_first_and_the_rest_after_a_moment() -> None:
    ending, wire, clock = made()
    assert not ending.begun
    ending.half()
    assert ending.begun
    assert wire.done == ["write_eof"]
    assert clock.ring() == LIMITS.linger
    assert wire.done == ["write_eof", "abort"]


def test_a_client_that_takes_its_answer_has_the_time_for_it() -> None:
    ending, wire, clock = made()
    ending.half()
    wire.unsent = 1_000_000
    assert clock.ring() == LIMITS.linger
    for _ in range(5):
        wire.unsent -= 3000  # the least in 30 s
        assert clock.ring() == LIMITS.write_timeout
        assert wire.done == ["write_eof"]
    wire.unsent -= 2999
    clock.ring()
    assert wire.done == ["write_eof", "abort"]


def test_where_there_are_no_halves_it_is_closed() -> None:
    ending, wire, clock = made(halves=False)
    ending.half()
    assert wire.done == ["close"]
    assert clock.ring() == LIMITS.write_timeout


def test_it_ends_once() -> None:
    ending, _, clock = made()
    ending.half()
    ending.whole()
    assert len(clock.timers) == 1
    ending.stop()
    ending.stop()
    assert clock.cancelled == 1
