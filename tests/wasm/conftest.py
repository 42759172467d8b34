"""The engine under test: every implementation of the contract stands in `ENGINES`, and each runs the same cases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from insula.wasm.contract import Engine
from insula.wasm.engine import NativeEngine
from tests.wasm.reference.threads import ThreadEngine
from tests.wasm.rig import Rig


async def threads(cache: Path) -> Engine:
    """The reference: the same promises over wasmtime's public Python API, a thread a call."""
    return ThreadEngine(cache)


ENGINES: dict[str, Callable[[Path], Awaitable[Engine]]] = {"native": NativeEngine.open, "threads": threads}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of compiled code for the whole run, so that each guest is compiled once."""
    return tmp_path_factory.mktemp("code", numbered=True) / "cache"


@pytest.fixture(params=sorted(ENGINES))
async def engine(request: pytest.FixtureRequest, cache: Path) -> AsyncIterator[Engine]:
    engine = await ENGINES[request.param](cache)
    yield engine
    await engine.close()


@pytest.fixture
async def rig(engine: Engine) -> Rig:
    """The torture guest on the engine, ready to be called."""
    return await Rig.on(engine)


@pytest.fixture
async def gorig(engine: Engine) -> Rig:
    """The same for the Go guest."""
    return await Rig.on(engine, "gotorture")
