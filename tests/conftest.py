"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def blocked_loop_fails() -> Iterator[BlockBuster]:
    """Fails a test in which the product's code blocks its event loop (file, socket or lock calls on the loop)."""
    with blockbuster_ctx("insula") as blockbuster:
        yield blockbuster
