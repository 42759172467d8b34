from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from insula.interpreter import SWITCH, THRESHOLDS, importing, serving


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
