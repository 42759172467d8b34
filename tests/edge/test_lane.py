"""What the lane takes by a head, and that it forgets with the table."""

from __future__ import annotations

import gc
import weakref

import pytest

from insula.edge.app import Application
from insula.edge.exchange import Route
from insula.edge.header_memo import Known
from insula.edge.lane import MAX_BODY, Lane
from insula.edge.limits import ConnectionLimits
from insula.edge.routes import RouteTable
from tests.edge.conftest import Nothing, Probe
from tests.edge.roads import post

LIMITS = ConnectionLimits()


def meet(lane: Lane, data: bytes) -> Known | None:
    return lane.meet(data, 0, data.find(b"\r\n\r\n") + 4, LIMITS)


def lane(probe: Probe, max_body: int = 1 << 20) -> Lane:
    route = Route(probe, "/a", frozenset(("POST",)), max_body=max_body)
    read = Route(probe, "/read")
    return Lane(
        Application(RouteTable([(b"/a", route), (b"/read", read)]), missing=Route(Nothing(), "missing", frozenset()))
    )


def test_a_plain_head_is_taken() -> None:
    known = meet(lane(Probe()), post(fields=b"X-Request-Id: mine\r\nX-Request-Id: other\r\n", path=b"/a"))
    assert known is not None
    assert (known.length, known.request_id, known.route.label, known.path) == (5, "mine", "/a", b"/a")


@pytest.mark.parametrize(
    "message",
    [
        post(path=b"/b"),
        post(path=b"/read"),
        post(path=b"/a?b"),
        post(path=b"/a").replace(b"POST", b"PUT"),
        post(b"x" * (MAX_BODY + 1), path=b"/a"),
    ],
)
def test_everything_else_is_left_to_the_ordinary_road(message: bytes) -> None:
    assert meet(lane(Probe()), message) is None


def test_so_is_a_body_over_the_bound_of_its_route_and_what_the_handler_refuses() -> None:
    assert meet(lane(Probe(), 4), post(path=b"/a")) is None
    assert meet(lane(Nothing()), post(path=b"/a")) is None


def test_nothing_of_a_table_that_is_gone_is_kept() -> None:
    probe = Probe()
    one = lane(probe)
    known = meet(one, post(path=b"/a"))
    assert known is not None
    one.memo.put(b"block", known)
    gone = weakref.ref(probe)
    one._app.table = RouteTable(())
    del known, probe
    gc.collect()
    assert gone() is None
    assert len(one.memo) == 0
