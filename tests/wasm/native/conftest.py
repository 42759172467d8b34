"""The engine whose parts are tested here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from insula.wasm.engine import NativeEngine


@pytest.fixture
async def engine(cache: Path) -> AsyncIterator[NativeEngine]:
    engine = await NativeEngine.open(cache)
    yield engine
    await engine.close()
