"""Which paths look like a method."""

from __future__ import annotations

import pytest

from insula.gateways.missing import looks_like_a_method


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
