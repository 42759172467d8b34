"""The instances of one service: idle, busy, on their way, and on their way out.

What retires an instance: a trap, an exit or a missed deadline (it is never entered again), the end of its service, and
idleness. Idle instances form a stack, so the one used last is used next and those at the bottom are the ones nobody
needs. While there are more instances than the minimum, the pool looks after each period of `idle_after` seconds which
ones at the bottom were not touched since the look before, and closes them. An instance is so closed after one to two
periods without work, and a call pays a mark for it, not a look at the clock.

An instance that has something to do before it goes (see life.py) counts as busy until that is over, unless the pool is
closed first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from insula.errors import InsulaError, forget_frames
from insula.services.clock import Clock, Timer
from insula.services.counts import Counts
from insula.services.life import Lives
from insula.wasm.contract import Instance

log = logging.getLogger("insula.services")


class Pool:
    """Between `minimum` and `maximum` instances. `ready` and `failed` are told of each start, `gone` of each that has gone
    in an orderly way; keeping the minimum and deciding when to start one is the service's."""

    def __init__(
        self,
        lives: Lives,
        *,
        minimum: int,
        maximum: int,
        idle_after: float,
        clock: Clock,
        counts: Counts,
        ready: Callable[[], None],
        failed: Callable[[BaseException], None],
        gone: Callable[[], None],
    ) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.idle: list[Instance] = []  # always this very list
        self.living = 0
        self.starting = 0
        self._lives = lives
        self._starts: set[asyncio.Task[Instance]] = set()
        self._leaving: dict[Instance, asyncio.Task[None]] = {}
        self._idle_after = idle_after
        self._clock = clock
        self._counts = counts
        self._ready = ready
        self._failed = failed
        self._gone = gone
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
        task = asyncio.create_task(self._lives.start())
        self._starts.add(task)
        task.add_done_callback(self._started)

    def _started(self, future: asyncio.Task[Instance]) -> None:
        self._starts.discard(future)
        self.starting -= 1
        if future.cancelled():
            self._counts.failed_starts += 1
            self._failed(asyncio.CancelledError())
            return
        error = future.exception()
        if error is not None:
            if isinstance(error, InsulaError):
                forget_frames(error)
            self._counts.failed_starts += 1
            self._failed(error)
            return
        instance = future.result()
        self._counts.starts += 1
        if self._closed:
            self._lives.close(instance)
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
            self._lives.close(instance)

    def shed(self) -> None:
        """Lets every idle instance above the minimum go, whose memory others need now."""
        count = min(len(self.idle), self.total - self.minimum)
        if count > 0:
            self._counts.passivated += count
            for _ in range(count):
                self._let_go(self.idle.pop())

    def retire(self) -> None:
        """Lets every idle instance go."""
        while self.idle:
            self._let_go(self.idle.pop())

    def close(self) -> None:
        """Closes what is idle now or on its way out, and everything else when it comes back. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._leaving.values():
            task.cancel()
        for instance in self.idle:
            self._lives.close(instance)
        self.living -= len(self.idle)
        self.idle.clear()

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
        """Lets so many at the bottom go."""
        unused = self.idle[:count]
        del self.idle[:count]
        for instance in unused:
            self._let_go(instance)

    def _let_go(self, instance: Instance) -> None:
        """Ends an instance that is in `idle` no more: at once, or after what it has to do."""
        if not self._lives.ends:
            self.living -= 1
            self._lives.close(instance)
            return
        task = asyncio.create_task(self._lives.end(instance))
        self._leaving[instance] = task
        task.add_done_callback(lambda _: self._left(instance))

    def _left(self, instance: Instance) -> None:
        task = self._leaving.pop(instance)
        self.living -= 1
        self._lives.close(instance)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an instance failed before it went", exc_info=error)
        self._gone()
