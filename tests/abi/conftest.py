"""The engines of the wasm room, to run real okra guests on."""

from __future__ import annotations

from tests.wasm.conftest import cache, engine

__all__ = ["cache", "engine"]
