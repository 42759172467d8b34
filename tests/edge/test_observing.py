"""Every answered request is seen once by each observer, over both roads, and metrics alone keep the lane's own counting."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from insula.calls import Principal
from insula.edge.admission import Verdict
from insula.edge.exchange import Head, Route
from insula.edge.limits import ConnectionLimits
from insula.edge.observing import RouteObserver
from tests.edge.conftest import until
from tests.edge.roads import CLOSE, Roads, post, roads

LIMITS = ConnectionLimits(keep_alive_timeout=5.0, linger=0.3)


class Log:
    """Keeps what it sees of `/do`."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, int, int, str]] = []

    def of(self, route: Route) -> RouteObserver | None:
        return self if route.label == "/do" else None

    def answered(self, head: Head, status: int, bytes_in: int, bytes_out: int, seconds: float) -> None:
        assert 0 <= seconds < 60
        assert head.request_id
        who = head.principal.subject if head.principal else "-"
        self.lines.append((head.path.decode(), status, bytes_in, bytes_out, who))


class Broken(Log):
    def answered(self, head: Head, status: int, bytes_in: int, bytes_out: int, seconds: float) -> None:
        raise RuntimeError("the disk is full")


class Proves:
    def concerns(self, route: Route) -> bool:
        return True

    def __call__(self, head: Head, _: Route) -> Verdict:
        head.principal = Principal("ann")
        return None


@pytest.fixture
async def here() -> AsyncIterator[Roads]:
    async with roads(LIMITS) as both:
        yield both


async def test_each_answer_is_seen_once(here: Roads) -> None:
    logs = (Log(), Log())
    for road, log in zip(here.both, logs, strict=True):
        road.app.observe(Broken())
        road.app.observe(log)
        road.app.rules = (Proves(),)
    bodies = [
        b"hello",
        b"hello",
        b"later 1",
        b"trap",
        b"refuse",
        b"long 2000",
        b"long 200000",
        b"x" * 70_000,
        b"status 404",
    ]
    messages = [post(body) for body in bodies]
    messages += [post(b"", b"Content-Type: text/csv\r\n"), b"PUT /do HTTP/1.1\r\nHost: a\r\n\r\n"]
    messages += [b"GET /read HTTP/1.1\r\nHost: a\r\n\r\n", CLOSE]
    await here.same(*messages)
    for log in logs:
        await until(lambda log=log: len(log.lines) == 12)  # type: ignore[misc]
    ordinary, lane = (log.lines for log in logs)
    assert sorted(ordinary) == sorted(lane)
    assert {line[4] for line in lane} == {"ann"}
    assert ("/do", 200, 5, 5, "ann") in lane
    for road in here.both:
        stats = road.app.metrics.routes["/do"]
        assert sum(stats.by_status().values()) == 12
        assert stats.quick == 0  # the lane counts by itself for metrics alone


async def test_a_client_that_leaves_is_seen(here: Roads) -> None:
    for road in here.both:
        log = Log()
        road.app.observe(log)
        _, writer = await road.connect()
        writer.write(post(b"later 60000"))
        await until(lambda road=road: road.app.metrics.in_flight == 1)  # type: ignore[misc]
        writer.close()
        await until(lambda log=log: log.lines)  # type: ignore[misc]
        assert log.lines == [("/do", 499, 11, 0, "-")]


async def test_with_metrics_alone_the_lane_counts_quick_answers_itself(here: Roads) -> None:
    await here.lane.talk(*[post() for _ in range(9)], CLOSE)
    assert here.lane.app.metrics.routes["/do"].quick > 0
    lane = here.lane.lane
    assert lane is not None
    [known] = [known for known in lane.memo.young.values() if known.length == 5]
    assert known.observers == (known.stats,)
    assert known.said is not None
