from __future__ import annotations

import asyncio

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


class Early:
    """A clock and its timers, which fire a fraction of a millisecond early, as those of an event loop may."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += max(0.0, seconds - 0.0004)


@pytest.mark.parametrize("milliseconds", [0, 0.2, 1, 250, 60_000])
async def test_a_sleep_is_never_shorter_than_asked(milliseconds: float) -> None:
    """Also where that is past the call's deadline: ending the call is the engine's."""
    clock = Early()
    host = Host(TimeCapability(sleep=clock.sleep, monotonic=clock), of=scope(within=2.0))
    assert await host.ask("okra.time", "sleep", {"milliseconds": milliseconds}) is None
    assert clock.now - 1000.0 >= milliseconds / 1000
    assert len(clock.slept) <= 3


async def test_a_sleep_of_ages_asks_nothing_impossible_of_the_loop() -> None:
    sleeping = asyncio.create_task(Host(TimeCapability()).ask("okra.time", "sleep", {"milliseconds": 1e300}))
    await asyncio.sleep(0)
    assert not sleeping.done()
    sleeping.cancel()


@pytest.mark.parametrize("parameters", [{}, {"milliseconds": -1}, {"milliseconds": "1"}, {"milliseconds": None}])
async def test_refused(parameters: object) -> None:
    assert await Host(TimeCapability()).ask("okra.time", "sleep", parameters) == "INVALID_PARAMETERS"
