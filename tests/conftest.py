"""Fixtures that every test may use."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

# a busy machine is no fault of what is tested
settings.register_profile("insula", deadline=None)
settings.load_profile("insula")


def pytest_configure() -> None:
    """A shell's background job ignores SIGINT and nohup SIGHUP, and so would every server that a test starts."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def blocked_loop_fails() -> Iterator[BlockBuster]:
    """Fails a test in which the product's code blocks its event loop (file, socket or lock calls on the loop)."""
    with blockbuster_ctx("insula") as blockbuster:
        yield blockbuster
