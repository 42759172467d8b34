"""The metrics page is made in a thread, beside a loop that counts, deploys and takes away."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from insula.calls import ServiceId
from insula.edge.metrics import Metrics
from insula.errors import Code
from insula.host.guest_log import GuestLogs
from insula.services.counts import Counts
from insula.services.exposition import families


@pytest.fixture
def eager() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def _generation(number: int) -> Any:
    service = SimpleNamespace(
        counts=Counts(),
        mailbox=lambda: {"waiting": 0},
        instances=lambda: {"idle": 0},
        state=SimpleNamespace(value="running"),
    )
    return SimpleNamespace(id=ServiceId("shop", f"S{number}", "v1"), service=service)


@pytest.mark.usefixtures("eager")
def test_a_page_is_whole_whatever_changes_beside_it() -> None:
    """Services come and go, codes and statuses come for the first time, routes leave the table."""
    generations, logs, metrics = [_generation(number) for number in range(50)], GuestLogs(), Metrics()
    metrics.add(lambda: families(generations, logs.dropped, 0))
    failures: list[BaseException] = []
    done = threading.Event()

    def expose() -> None:
        try:
            for _ in range(25):
                assert b"insula_guest_log_dropped_total" in metrics._expose()
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=expose)
    thread.start()
    codes, turn = list(Code), 0
    while not done.is_set():
        turn += 1
        kept = [logs.of(ServiceId("shop", f"S{number}", f"v{turn % 7}")) for number in range(50)]
        for generation in generations:
            counts = generation.service.counts
            counts.errors.clear()
            for code in codes[: turn % len(codes)]:
                counts.failed(code)
        for number in range(100):
            stats = metrics.route(f"/{turn % 3}/{number}")
            stats.statuses.clear()
            for status in range(200, 200 + turn % 40):
                stats.record(status, 0.1, 0, 0)
            metrics.dropped(f"reason{turn % 50}")
        metrics.keep({f"/{turn % 3}/{number}": 1 for number in range(50)})
        del kept
    thread.join()
    assert not failures
