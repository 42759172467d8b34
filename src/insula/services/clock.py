"""Time as a parameter: what the services ask of a clock, and the clock of a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """Something that happens later, unless it is cancelled first."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """The time in seconds, of the same clock as a call's deadline, and a call that comes later on the event loop."""

    def now(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer: ...


class LoopClock:
    """`time.monotonic()` and the timers of the running event loop."""

    now = staticmethod(time.monotonic)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(max(delay, 0.0), callback)
