from __future__ import annotations

import pytest

from insula.host.time import TimeCapability
from tests.host.conftest import Host, scope


async def test_now() -> None:
    host = Host(TimeCapability(wall=lambda: 1_700_000_000.25))
    assert await host.ask("okra.time", "now") == {
        "timestamp": 1_700_000_000_250,
        "timezone": "UTC",
        "iso8601": "2023-11-14T22:13:20.250Z",
    }


class Sleeper:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


async def test_sleep() -> None:
    sleeper = Sleeper()
    call = scope()
    host = Host(TimeCapability(sleep=sleeper, monotonic=lambda: call.call.deadline - 2.0), of=call)
    assert await host.ask("okra.time", "sleep", {"milliseconds": 250}) is None
    assert await host.ask("okra.time", "sleep", {"milliseconds": 0}) is None
    assert await host.ask("okra.time", "sleep", {"milliseconds": 60_000}) == "TIMEOUT"
    assert sleeper.slept == [0.25, 0.0, pytest.approx(2.0)], "no sleep goes past the deadline"


@pytest.mark.parametrize("parameters", [{}, {"milliseconds": -1}, {"milliseconds": "1"}, {"milliseconds": None}])
async def test_refused(parameters: object) -> None:
    assert await Host(TimeCapability()).ask("okra.time", "sleep", parameters) == "INVALID_PARAMETERS"
