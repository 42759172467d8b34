from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from insula.interpreter import SWITCH, THRESHOLDS, importing, look_at_young_objects, serving


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds, switch = gc.get_threshold(), sys.getswitchinterval()
    yield
    sys.setswitchinterval(switch)
    gc.unfreeze()
    gc.enable()
    gc.set_threshold(*thresholds)


def test_rests_inside_and_passes_over_what_came() -> None:
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before


def test_works_again_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()


def test_a_server_looks_for_little_garbage_at_a_time_and_its_threads_take_short_turns() -> None:
    serving()
    assert gc.get_threshold() == THRESHOLDS
    assert sys.getswitchinterval() == pytest.approx(SWITCH)


class Ring:
    """In a cycle with itself."""

    def __init__(self) -> None:
        self.myself = self


def test_what_is_young_is_collected_and_looked_at_once() -> None:
    serving()
    ring = weakref.ref(Ring())
    look_at_young_objects()
    assert ring() is None
    assert gc.get_count()[1] == 0, "what lives on is old now"


def test_nothing_is_collected_where_the_collector_is_off() -> None:
    gc.disable()
    ring = weakref.ref(Ring())
    look_at_young_objects()
    assert ring() is not None


def test_every_so_often_all_there_is_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    serving()
    ring = weakref.ref(Ring())
    old = ring()
    gc.collect(1)
    del old
    monkeypatch.setattr("insula.interpreter.EVERY", 3)
    for _ in range(3):
        look_at_young_objects()
    assert ring() is None
