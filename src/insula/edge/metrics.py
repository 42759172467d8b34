"""What the edge counts, and the page that tells it.

Counting is adding to plain numbers on the event loop. The exposition reads them in a thread of its own while the loop
goes on counting: each number by itself, and a container only from a copy that was made in one step of the interpreter.
So it may take its time, it waits for no other work, and prometheus-client is loaded when the first page is asked for.
One exposition runs at a time; a request that comes meanwhile gets its page, and a page that took long is kept for as long
as it took. A route has its numbers from its first request until it leaves the table, so what is idle costs nothing and
what is undeployed is not told for ever.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from insula.edge.exchange import Head, Route
from insula.threads import Threads

#: Upper bounds of the buckets, in seconds.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: An exposition that took longer than this (s) is kept for as long as it took.
BRIEF = 0.05

#: Another room's numbers: called in a thread at each exposition, returns prometheus-client metric families. It iterates
#: over copies only, since the event loop may change a container meanwhile.
Source: TypeAlias = Callable[[], Iterable[Any]]


#: What counts as quick, in seconds: the first bucket.
QUICK = BOUNDS[0]


class RouteStats:
    """The numbers of one route. `quick` counts requests that were answered with 200 within `QUICK`, by the fast lane, which
    adds to the plain fields itself; `statuses` and `buckets` have all others."""

    __slots__ = ("buckets", "bytes_in", "bytes_out", "quick", "seconds", "statuses")

    def __init__(self) -> None:
        self.quick = 0
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.bytes_in = 0
        self.bytes_out = 0

    def by_status(self) -> dict[int, int]:
        """Requests by the status of their answer."""
        statuses: dict[int, int] = self.statuses.copy()
        if self.quick:
            statuses[200] = statuses.get(200, 0) + self.quick
        return statuses

    def answered(self, _: Head, status: int, bytes_in: int, bytes_out: int, seconds: float) -> None:
        """Counts one request; see `observing.RouteObserver`."""
        self.record(status, seconds, bytes_in, bytes_out)

    def record(self, status: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """Counts one request: its status, how long its answer took, the bytes of both bodies on the wire."""
        self.statuses[status] += 1
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out


class Metrics:
    """The numbers of one application, and its first observer. `connections` tells how many are open now."""

    def __init__(
        self, connections: Callable[[], int] | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self.routes: dict[str, RouteStats] = {}
        self.in_flight = 0
        self.drops: Counter[str] = Counter()
        self.connections = connections
        self._sources: list[Source] = [self._families]
        self._registry: Any = None
        self._running: asyncio.Future[bytes] | None = None
        self._thread = Threads(1, "insula-metrics")
        self._kept_until = 0.0

    def route(self, label: str) -> RouteStats:
        """The numbers of this route, made at its first request."""
        stats = self.routes.get(label)
        if stats is None:
            stats = self.routes[label] = RouteStats()
        return stats

    def of(self, route: Route) -> RouteStats:
        """Every route is counted. It keeps its numbers from when a request found it, since it may leave the table before
        the answer."""
        return self.route(route.label)

    def dropped(self, reason: str) -> None:
        """Counts a connection that ended without the application's answer."""
        self.drops[reason] += 1

    def forget(self, labels: Iterable[str]) -> None:
        """Forgets these routes."""
        for label in labels:
            self.routes.pop(label, None)

    def keep(self, labels: Mapping[str, object], *others: str) -> None:
        """Forgets every route that is not one of these."""
        for label in self.routes.keys() - labels.keys():
            if label not in others:
                del self.routes[label]

    def add(self, source: Source) -> None:
        """Tells another room's numbers on the same page."""
        self._sources.append(source)

    def exposition(self) -> asyncio.Future[bytes]:
        """The page in the Prometheus text format, made in a thread. UnavailableError where the system gives none."""
        running = self._running
        if running is None or (running.done() and not self._is_kept(running)):
            running = self._running = self._thread.run(self._expose)
        return asyncio.shield(running)

    def _is_kept(self, page: asyncio.Future[bytes]) -> bool:
        return self._now() < self._kept_until and not page.cancelled() and page.exception() is None

    def close(self) -> None:
        """Ends the thread, once what it does is done."""
        self._thread.close()

    def _expose(self) -> bytes:
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry()
            ProcessCollector(registry=self._registry)
            self._registry.register(self)
        began = self._now()
        page: bytes = generate_latest(self._registry)
        now = self._now()
        if now - began > BRIEF:
            self._kept_until = 2 * now - began
        return page

    def describe(self) -> Iterable[Any]:
        """Nothing is known before it is collected; prometheus-client asks for this at registration."""
        return ()

    def collect(self) -> Iterable[Any]:
        """Every family of every source; prometheus-client calls it at each exposition."""
        for source in self._sources:
            yield from source()

    def _families(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily("insula_http_requests", "Requests answered.", labels=("route", "code"))
        seconds = HistogramMetricFamily("insula_http_request_seconds", "Time to the answer.", labels=("route",))
        received = CounterMetricFamily("insula_http_request_bytes", "Bytes of bodies received.", labels=("route",))
        sent = CounterMetricFamily("insula_http_response_bytes", "Bytes of bodies sent.", labels=("route",))
        for label, stats in self.routes.copy().items():
            for status, count in stats.by_status().items():
                requests.add_metric((label, str(status)), count)
            total = stats.quick
            buckets = []
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), stats.buckets.copy(), strict=True):
                total += count
                buckets.append((bound, total))
            seconds.add_metric((label,), buckets, stats.seconds)
            received.add_metric((label,), stats.bytes_in)
            sent.add_metric((label,), stats.bytes_out)
        dropped = CounterMetricFamily(
            "insula_connections_dropped", "Connections ended without the application's answer.", labels=("reason",)
        )
        for reason, count in self.drops.copy().items():
            dropped.add_metric((reason,), count)
        yield from (requests, seconds, received, sent, dropped)
        yield GaugeMetricFamily("insula_http_requests_in_flight", "Requests under way.", self.in_flight)
        if self.connections is not None:
            yield GaugeMetricFamily("insula_connections", "Connections that are open.", self.connections())
