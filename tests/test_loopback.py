"""What can be reached from this machine alone."""

from __future__ import annotations

import pytest

from insula.loopback import is_loopback


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "localhost.", "::1", "[::1]", "::1%lo", "127.0.0.1", "127.0.0.2", "127.255.1.2"]
)
def test_what_is_this_machines_own(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example", "127.0.0.1.example.com", "127.1"]
)
def test_what_is_not(host: str) -> None:
    assert not is_loopback(host)
