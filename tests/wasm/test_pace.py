"""Which methods are slow, and how one becomes quick again."""

from __future__ import annotations

import pytest

from insula.wasm.pace import CALM, FEW, LONG, MANY, NOTE, QUICK, SLOW, SPENT, Pace
from tests.clock import Clock


def slowed(clock: Clock) -> Pace:
    pace = Pace(clock)
    slow_down(pace)
    return pace


def slow_down(pace: Pace) -> None:
    for _ in range(20):
        pace.took(2 * SLOW)
    assert pace.slow
    assert not pace.unwatched


def quick_after(pace: Pace) -> int:
    count = 0
    while pace.slow:
        pace.took_in_worker(QUICK / 2)
        count += 1
    return count


def test_a_method_is_slow_by_the_mean_of_its_calls() -> None:
    pace = Pace()
    pace.watch()
    for _ in range(100):
        pace.took(SLOW * 0.9)
    assert not pace.slow
    for _ in range(3):
        pace.took(SLOW * 2)
    assert pace.slow


def test_one_odd_call_makes_no_method_slow() -> None:
    pace = Pace()
    for _ in range(50):
        for _ in range(20):
            pace.took(NOTE / 5)
        pace.took(SLOW * 3)
    assert not pace.slow


def test_a_method_is_watched_until_its_calls_are_quick_again() -> None:
    pace = Pace()
    assert pace.unwatched
    pace.watch()
    for _ in range(CALM - 1):
        pace.took(NOTE / 2)
    pace.took(NOTE * 2)
    for _ in range(CALM - 1):
        assert not pace.unwatched
        pace.took(NOTE / 2)
    assert not pace.unwatched
    pace.took(NOTE / 2)
    assert pace.unwatched


@pytest.mark.parametrize("end", ["a long call", "a long call in a worker", "a helper"])
def test_one_long_call_makes_it_slow_for_long(end: str) -> None:
    pace = Pace(Clock())
    match end:
        case "a long call":
            pace.took(LONG)
        case "a long call in a worker":
            slow_down(pace)
            pace.took_in_worker(LONG)
        case _:
            pace.helper_overran()
    assert quick_after(pace) == MANY


def test_a_slice_that_the_guest_used_makes_it_slow_and_one_that_it_did_not_is_only_watched() -> None:
    pace = Pace()
    for _ in range(100):
        pace.missed(SPENT / 2)
    assert not pace.slow
    assert not pace.unwatched
    pace.missed(SPENT)
    assert pace.slow


def test_calls_that_are_quick_make_it_quick_and_each_relapse_is_dearer() -> None:
    clock = Clock()
    pace = slowed(clock)
    assert quick_after(pace) == FEW
    assert not pace.unwatched
    for needs in (2 * FEW, 4 * FEW):
        slow_down(pace)
        assert quick_after(pace) == needs
    clock.at += 100
    slow_down(pace)
    assert quick_after(pace) == FEW, "a relapse after a long time is none"


def test_one_slow_call_begins_the_count_again() -> None:
    pace = slowed(Clock())
    for _ in range(FEW - 1):
        pace.took_in_worker(0.0)
    pace.took_in_worker(SLOW)
    assert quick_after(pace) == FEW


def test_a_method_that_is_kept_slow_never_becomes_quick() -> None:
    pace = Pace()
    pace.keep_slow()
    for _ in range(2 * MANY):
        pace.took_in_worker(0.0)
    assert pace.slow


def test_a_method_that_becomes_slow_tells_once() -> None:
    told: list[None] = []
    pace = Pace(Clock())
    pace.slowed = lambda: told.append(None)
    slow_down(pace)
    pace.took_in_worker(LONG)
    pace.took(LONG)
    assert len(told) == 1
    quick_after(pace)
    slow_down(pace)
    assert len(told) == 2


def test_a_suspect_method_shows_in_a_few_calls_that_it_is_quick_and_that_is_no_relapse() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(3):
        pace.suspect()
        pace.suspect()
        assert (pace.slow, pace.unwatched) == (True, False)
        assert quick_after(pace) == FEW
    slow_down(pace)
    assert quick_after(pace) == FEW
