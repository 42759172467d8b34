from __future__ import annotations

import asyncio
import time

from insula.services.clock import LoopClock


async def test_the_clock_of_deadlines_and_the_loop() -> None:
    clock = LoopClock()
    assert abs(clock.now() - time.monotonic()) < 60
    rung = asyncio.Event()
    cancelled: list[int] = []
    clock.call_later(0.0, lambda: cancelled.append(1)).cancel()
    clock.call_later(-5.0, rung.set)
    await rung.wait()
    assert not cancelled
