"""What the lane takes by a head, and that it forgets with the table."""

from __future__ import annotations

import gc
import weakref

import pytest

from insula.edge.app import Application
from insula.edge.exchange import Route
from insula.edge.lane import MAX_BODY, Lane
from insula.edge.routes import RouteTable
from tests.edge.conftest import Nothing, Probe

PLAIN = [(b"host", b"a"), (b"content-length", b"5")]


def lane(probe: Probe, max_body: int = 1 << 20) -> Lane:
    route = Route(probe, "/a", frozenset(("POST",)), max_body=max_body)
    read = Route(probe, "/read")
    return Lane(
        Application(RouteTable([(b"/a", route), (b"/read", read)]), missing=Route(Nothing(), "missing", frozenset()))
    )


def test_a_plain_head_is_taken() -> None:
    known = lane(Probe()).meet(b"/a", [*PLAIN, (b"x-request-id", b"mine"), (b"x-request-id", b"other")])
    assert known is not None
    assert (known.length, known.request_id, known.route.label, known.head.path) == (5, "mine", "/a", b"/a")


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        (b"/b", PLAIN),
        (b"/read", PLAIN),
        (b"/a?b", PLAIN),
        (b"/a", [(b"host", b"a")]),
        (b"/a", [(b"content-length", b"%d" % (MAX_BODY + 1))]),
        *(
            (b"/a", [*PLAIN, (name, b"x")])
            for name in (b"content-encoding", b"expect", b"transfer-encoding", b"upgrade")
        ),
    ],
)
def test_everything_else_is_left_to_the_ordinary_road(target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    assert lane(Probe()).meet(target, fields) is None


def test_so_is_a_body_over_the_bound_of_its_route_and_what_the_handler_refuses() -> None:
    assert lane(Probe(), 4).meet(b"/a", PLAIN) is None
    assert lane(Nothing()).meet(b"/a", PLAIN) is None


def test_nothing_of_a_table_that_is_gone_is_kept() -> None:
    probe = Probe()
    one = lane(probe)
    known = one.meet(b"/a", PLAIN)
    assert known is not None
    one.memo.put(b"block", known)
    gone = weakref.ref(probe)
    one._app.table = RouteTable(())
    del known, probe
    gc.collect()
    assert gone() is None
    assert len(one.memo) == 0
