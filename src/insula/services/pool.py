"""The instances of one service: idle, busy and on their way.

What retires an instance: a trap, an exit or a missed deadline (it is never entered again), the end of its service, and
idleness. Idle instances form a stack, so the one used last is used next and those at the bottom are the ones nobody
needs. While there are more instances than the minimum, the pool notes over each period of `idle_after` seconds how low
the stack ever was: that many at the bottom were not touched in the whole period, and they are closed. An instance is so
closed after one to two periods without work, and a call pays one comparison for it, not a look at the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from insula.services.clock import Clock, Timer
from insula.services.counts import Counts
from insula.wasm.contract import Instance, Program


class Pool:
    """Between `minimum` and `maximum` instances. `ready` and `failed` are told of each start; keeping the minimum and
    deciding when to start one is the service's."""

    def __init__(
        self,
        program: Program,
        *,
        minimum: int,
        maximum: int,
        idle_after: float,
        clock: Clock,
        counts: Counts,
        ready: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.idle: list[Instance] = []
        self.busy = 0
        self.starting = 0
        self._program = program
        self._idle_after = idle_after
        self._clock = clock
        self._counts = counts
        self._ready = ready
        self._failed = failed
        self._low = 0
        self._timer: Timer | None = None
        self._closed = False

    @property
    def total(self) -> int:
        return len(self.idle) + self.busy + self.starting

    def start(self) -> None:
        """Starts one more instance; `ready` or `failed` follows, never before this returns."""
        self.starting += 1
        try:
            future = self._program.instantiate()
        except Exception as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        future.add_done_callback(self._started)

    def _started(self, future: asyncio.Future[Instance]) -> None:
        self.starting -= 1
        if future.cancelled():
            self._counts.failed_starts += 1
            self._failed(asyncio.CancelledError())
            return
        error = future.exception()
        if error is not None:
            self._counts.failed_starts += 1
            self._failed(error)
            return
        instance = future.result()
        self._counts.starts += 1
        if self._closed:
            instance.close()
        else:
            self._rest(instance)
        self._ready()

    def take(self) -> Instance:
        """The idle instance that was used last; the caller has seen that there is one."""
        idle = self.idle
        instance = idle.pop()
        if len(idle) < self._low:
            self._low = len(idle)
        self.busy += 1
        return instance

    def give(self, instance: Instance) -> None:
        """Takes a busy instance back: to be used again where it lives, to be closed where it does not."""
        self.busy -= 1
        if instance.alive and not self._closed:
            self._rest(instance)
        else:
            instance.close()

    def close(self) -> None:
        """Closes what is idle now, and everything else when it comes back. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for instance in self.idle:
            instance.close()
        self.idle.clear()

    def _rest(self, instance: Instance) -> None:
        self.idle.append(instance)
        if self._timer is None and self.total > self.minimum:
            self._watch()

    def _watch(self) -> None:
        self._low = len(self.idle)
        self._timer = self._clock.call_later(self._idle_after, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        unused = max(0, min(self._low, self.total - self.minimum))
        for instance in self.idle[:unused]:
            instance.close()
        del self.idle[:unused]
        self._counts.passivated += unused
        if self.idle and self.total > self.minimum:
            self._watch()
