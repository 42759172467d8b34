"""Which paths look like a method, and what is said where nothing answers."""

from __future__ import annotations

import pytest

from insula.edge.exchange import Head
from insula.errors import InsulaError
from insula.gateways.missing import Missing, looks_like_a_method, missing_route


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (b"/a.B/c", True),
        (b"/a.b.C.v1/doIt", True),
        (b"/connect/x", True),
        (b"/a/b", False),
        (b"/a.B/c/d", False),
        (b"/a.B/", False),
        (b"/1.B/c", False),
        (b"/a..B/c", False),
        (b"/a.B/c?x", False),
        (b"/favicon.ico", False),
        (b"/assets/app.js", False),
        (b"/connect", False),
        (b"", False),
        (b"*", False),
    ],
)
def test_paths(path: bytes, method: bool) -> None:
    assert looks_like_a_method(path) is method


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"/a.B/c", 503),
        (b"/connect/a.B/c", 503),
        (b"/a.B.v1/c", 404),
        (b"/connect/", 404),
        (b"/a.B", 404),
    ],
)
def test_a_service_that_could_not_be_started_is_unavailable(path: bytes, status: int) -> None:
    route = missing_route(lambda name: "a.B.v2" if name == "a.B" else None)
    handler = route.handler
    assert isinstance(handler, Missing)
    head = Head("POST", path, b"", [])
    with pytest.raises(InsulaError) as refused:
        handler.prepare(head)
    answer = handler.refuse(head, refused.value)
    assert answer.status == status
    assert (b"insula show a.B.v2" in answer.body) == (status == 503)


@pytest.mark.parametrize("path", [b"/a.B/c", b"/a.B.v1/c", b"/favicon.ico"])
def test_nothing_is_missing_while_the_server_starts(path: bytes) -> None:
    starting = True
    route = missing_route(lambda name: None, lambda: starting)
    handler = route.handler
    assert isinstance(handler, Missing)
    with pytest.raises(InsulaError) as caught:
        handler.prepare(Head("POST", path, b"", []))
    assert (caught.value.http_status, caught.value.reason, caught.value.retry_after) == (503, "starting", 1.0)
    starting = False
    with pytest.raises(InsulaError) as caught:
        handler.prepare(Head("POST", path, b"", []))
    assert caught.value.http_status == 404
