"""Counting, forgetting, and one exposition at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from insula.edge.metrics import BOUNDS, Metrics
from insula.errors import UnavailableError
from tests.scarce import refuse_threads


async def _samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    page = (await metrics.exposition()).decode()
    return {
        (sample.name, ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_a_histogram_adds_up() -> None:
    metrics = Metrics()
    for seconds in (0.0001, 0.0005, 0.002, 40.0):
        metrics.route("/a").record(200, seconds, 10, 20)
    metrics.dropped("silent")
    samples = await _samples(metrics)
    assert samples["insula_http_request_seconds_bucket", "le=0.0005,route=/a"] == 2
    assert samples["insula_http_request_seconds_bucket", f"le={BOUNDS[-1]},route=/a"] == 3
    assert samples["insula_http_request_seconds_bucket", "le=+Inf,route=/a"] == 4
    assert samples["insula_http_request_seconds_count", "route=/a"] == 4
    assert samples["insula_http_request_bytes_total", "route=/a"] == 40
    assert samples["insula_http_response_bytes_total", "route=/a"] == 80
    assert samples["insula_connections_dropped_total", "reason=silent"] == 1


async def test_a_route_that_left_is_forgotten() -> None:
    metrics = Metrics()
    metrics.route("/a").record(200, 0.1, 0, 0)
    metrics.route("/b").record(200, 0.1, 0, 0)
    metrics.keep({"/b": 1, "/c": 1})
    assert set(metrics.routes) == {"/b"}


async def test_whoever_asks_meanwhile_gets_the_same_page() -> None:
    metrics = Metrics()
    runs = 0
    go = threading.Event()

    def source() -> Iterator[Any]:
        nonlocal runs
        runs += 1
        go.wait(5)
        yield from ()

    metrics.add(source)
    first, second = metrics.exposition(), metrics.exposition()
    first.cancel()
    third = metrics.exposition()
    await asyncio.sleep(0)
    go.set()
    assert await second == await third
    assert runs == 1
    await metrics.exposition()
    assert runs == 2


async def test_a_page_waits_for_no_other_work() -> None:
    """Every thread of the loop's own pool is taken."""
    metrics, go, loop = Metrics(), threading.Event(), asyncio.get_running_loop()
    await loop.run_in_executor(None, int)
    others = [loop.run_in_executor(None, go.wait, 30) for _ in range(64)]
    try:
        async with asyncio.timeout(10):
            assert await metrics.exposition()
    finally:
        go.set()
        await asyncio.gather(*others)
        metrics.close()


async def test_a_page_that_took_long_is_kept_as_long() -> None:
    now, runs = 0.0, 0

    def source() -> Iterator[Any]:
        nonlocal now, runs
        runs += 1
        now += 2.0
        yield from ()

    metrics = Metrics(now=lambda: now)
    metrics.add(source)
    for at, expected in ((0.0, 1), (3.9, 1), (4.1, 2), (8.0, 2), (8.2, 3)):
        now = max(now, at)
        await metrics.exposition()
        assert runs == expected, at
    metrics.close()


async def test_a_page_for_which_the_system_gives_no_thread_is_refused_and_the_next_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = Metrics()
    with refuse_threads(monkeypatch), pytest.raises(UnavailableError, match="starts no more threads"):
        await metrics.exposition()
    assert await metrics.exposition()
    metrics.close()
