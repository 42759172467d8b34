"""Who is slow, and how one becomes quick again."""

from __future__ import annotations

from insula.wasm.pace import FEW, MANY, Pace


class Clock:
    at = 1000.0

    def __call__(self) -> float:
        return self.at


def slowed(clock: Clock) -> Pace:
    pace = Pace(clock)
    for _ in range(3):
        pace.missed(1.0)
    assert pace.slow
    return pace


def quick_after(pace: Pace) -> int:
    count = 0
    while pace.slow:
        pace.was_quick()
        count += 1
    return count


def test_a_method_is_slow_once_it_spends_its_slices() -> None:
    pace = Pace()
    pace.missed(0.0)
    assert not pace.slow
    pace.missed(0.005)
    assert not pace.slow
    pace.missed(0.005)
    assert pace.slow


def test_a_busy_machine_makes_nobody_slow() -> None:
    pace = Pace()
    for _ in range(100):
        pace.missed(0.0001)
    assert not pace.slow


def test_calls_that_are_quick_make_it_quick_and_each_relapse_is_dearer() -> None:
    clock = Clock()
    pace = slowed(clock)
    assert quick_after(pace) == FEW
    for needs in (2 * FEW, 4 * FEW):
        for _ in range(3):
            pace.missed(1.0)
        assert quick_after(pace) == needs
    clock.at += 100
    for _ in range(3):
        pace.missed(1.0)
    assert quick_after(pace) == FEW, "a relapse after a long time is none"


def test_one_slow_call_begins_the_count_again() -> None:
    pace = slowed(Clock())
    for _ in range(FEW - 1):
        pace.was_quick()
    pace.was_slow()
    assert quick_after(pace) == FEW


def test_a_slow_helper_is_slow_at_once_and_for_long() -> None:
    pace = Pace(Clock())
    pace.helper_overran()
    assert quick_after(pace) == MANY
