"""The instances of one service: idle, busy and on their way.

What retires an instance: a trap, an exit or a missed deadline (it is never entered again), the end of its service, and
idleness. Idle instances form a stack, so the one used last is used next and those at the bottom are the ones nobody
needs. While there are more instances than the minimum, the pool looks after each period of `idle_after` seconds which
ones at the bottom were not touched since the look before, and closes them. An instance is so closed after one to two
periods without work, and a call pays a mark for it, not a look at the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from insula.background import fail
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
        self.idle: list[Instance] = []  # always this very list
        self.living = 0
        self.starting = 0
        self._program = program
        self._idle_after = idle_after
        self._clock = clock
        self._counts = counts
        self._ready = ready
        self._failed = failed
        self._timer: Timer | None = None
        self._closed = False

    @property
    def busy(self) -> int:
        """Instances that somebody took and has not given back."""
        return self.living - len(self.idle)

    @property
    def total(self) -> int:
        return self.living + self.starting

    def start(self) -> None:
        """Starts one more instance; `ready` or `failed` follows, never before this returns."""
        self.starting += 1
        try:
            future = self._program.instantiate()
        except Exception as error:
            future = asyncio.get_running_loop().create_future()
            fail(future, error)
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
            self.living += 1
            instance.touched = True
            self.idle.append(instance)
            self._watch()
        self._ready()

    def take(self) -> Instance:
        """The idle instance that was used last; the caller has seen that there is one."""
        instance = self.idle.pop()
        instance.touched = True
        return instance

    def give(self, instance: Instance) -> None:
        """Takes a busy instance back: to be used again where it lives, to be closed where it does not."""
        if instance.alive and not self._closed:
            self.idle.append(instance)
        else:
            self.living -= 1
            instance.close()

    def close(self) -> None:
        """Closes what is idle now, and everything else when it comes back. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._end(len(self.idle))

    def _watch(self) -> None:
        if self._timer is None and self.total > self.minimum:
            self._timer = self._clock.call_later(self._idle_after, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        unused, most = 0, self.total - self.minimum
        for instance in self.idle:
            if instance.touched or unused >= most:
                break
            unused += 1
        self._end(unused)
        self._counts.passivated += unused
        for instance in self.idle:
            instance.touched = False
        self._watch()

    def _end(self, count: int) -> None:
        """Closes so many at the bottom."""
        self.living -= count
        for instance in self.idle[:count]:
            instance.close()
        del self.idle[:count]
