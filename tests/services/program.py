"""An engine in memory: a `Program` whose guests are Python coroutines or plain functions.

It is a second implementation of the engine's contract for tests of what stands above it: it answers inline where the
guest is plain and later where it is a coroutine, kills the instance on any error but a RefusalError and on a cancel, ends a
call at its deadline by the clock it is given, and counts what lives, so that a test can see a leak.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from insula.errors import DeadlineError, GuestError, InsulaError
from insula.wasm.contract import Exchange, Guest, Instance, RefusalError, Runner, Scope
from insula.wasm.pace import Pace

Behaviour = Callable[["MemoryInstance", Any, str, bytes], "bytes | Awaitable[bytes]"]


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, at: float = 1000.0) -> None:
        self._at = at
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._number = itertools.count()

    def now(self) -> float:
        return self._at

    def call_later(self, delay: float, callback: Callable[[], object]) -> ManualTimer:
        timer = ManualTimer(callback)
        heapq.heappush(self._timers, (self._at + max(delay, 0.0), next(self._number), timer))
        return timer

    @property
    def pending(self) -> int:
        """Timers that were not cancelled."""
        return sum(1 for _, _, timer in self._timers if timer.callback is not None)

    async def advance(self, seconds: float) -> None:
        """Lets the event loop settle, then moves the clock, running what falls due on the way."""
        end = self._at + seconds
        await settle()
        while self._timers and self._timers[0][0] <= end:
            at, _, timer = heapq.heappop(self._timers)
            self._at = max(self._at, at)
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()
            await settle()
        self._at = end
        await settle()


class ManualTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


async def settle() -> None:
    """Lets every callback that is ready run, and those that they make ready."""
    for _ in range(10):
        await asyncio.sleep(0)


class MemoryInstance:
    def __init__(self, program: MemoryProgram, number: int) -> None:
        self.alive = True
        self.closed = False
        self.touched = False
        self.home: Any = None
        self.room_at = 0
        self.room = -1
        self.number = number
        self.calls = 0
        self.entered = False
        self._program = program

    def close(self) -> None:
        assert not self.entered, "closed while it runs"
        if not self.closed:
            self.closed = True
            self.alive = False
            self._program.living -= 1

    def has(self, export: str) -> bool:
        return True

    def call(self, export: str, *args: int) -> int:
        return 0

    def read(self, pointer: int, size: int, limit: int | None = None) -> bytes:
        return b""

    def write(self, pointer: int, data: bytes) -> None: ...

    def first_call(self, export: str, *args: int) -> int:
        return 0

    def put_in(self, export: str, data: bytes, first: bool = False) -> int:
        return 0

    def drop(self, export: str, *pointers: int) -> None: ...

    def shortage(self, what: str) -> InsulaError | None:
        return None

    def retire(self) -> None:
        self.alive = False


class MemoryProgram:
    """`starting` is asked for each new instance: it raises, or returns, or returns an awaitable."""

    def __init__(self, behaviour: Behaviour, clock: ManualClock | None = None) -> None:
        self.calls_host = True
        self.start_timeout = 10.0
        self.behaviour = behaviour
        self.clock = clock
        self.starting: Callable[[int], Awaitable[None] | None] = lambda number: None
        self.instances: list[MemoryInstance] = []
        self.scopes: list[Any] = []
        self.living = 0
        self.closed = False

    @property
    def memory(self) -> int:
        return self.living

    def instantiate(self, scope: Scope | None = None) -> asyncio.Future[Instance]:
        self.scopes.append(scope)
        return asyncio.ensure_future(self._instantiate(len(self.instances) + 1))

    async def _instantiate(self, number: int) -> Instance:
        waiting = self.starting(number)
        if waiting is not None:
            await waiting
        instance = MemoryInstance(self, number)
        self.instances.append(instance)
        self.living += 1
        return instance

    def runner(self, exchange: Exchange) -> Runner:
        return functools.partial(self._run, exchange)

    def _run(
        self, exchange: Exchange, instance: Instance, payload: bytes, scope: Any, deadline: float
    ) -> bytes | asyncio.Future[bytes]:
        assert isinstance(instance, MemoryInstance)
        assert isinstance(exchange, MemoryExchange)
        assert instance.alive, "a dead instance is entered"
        assert not instance.entered, "two calls in one instance"
        instance.calls += 1
        instance.entered = True
        try:
            answer = self.behaviour(instance, scope, exchange.method, payload)
        except Exception as error:
            instance.entered = False
            instance.alive = isinstance(error, RefusalError)
            raise
        if isinstance(answer, bytes):
            instance.entered = False
            return answer
        running = asyncio.ensure_future(self._later(answer, deadline))

        def left(done: asyncio.Future[bytes]) -> None:
            instance.entered = False
            instance.alive = not done.cancelled() and isinstance(done.exception() or RefusalError(""), RefusalError)
            if asyncio.iscoroutine(answer):
                answer.close()  # where it was cancelled before it began

        running.add_done_callback(left)
        return running

    async def _later(self, answer: Awaitable[bytes], deadline: float) -> bytes:
        running = asyncio.ensure_future(answer)
        late = False

        def end() -> None:
            nonlocal late
            late = True
            running.cancel()

        timer = self.clock.call_later(deadline - self.clock.now(), end) if self.clock else None
        try:
            return await running
        except asyncio.CancelledError:
            running.cancel()
            if late:
                raise DeadlineError("the guest ran out of time") from None
            raise
        except InsulaError:
            raise
        except Exception as error:
            raise GuestError(f"trap: {error}") from error
        finally:
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        assert not self.living, f"{self.living} instances outlive their program"
        self.closed = True


class MemoryExchange:
    export = "call"
    number = None

    def __init__(self, method: str) -> None:
        self.method = method
        self.pace = Pace()

    def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
        return ()

    def finish(self, guest: Guest, args: tuple[int, ...], result: int) -> bytes:
        return b""


def echo(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes:
    return payload


def fragile(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes:
    if payload == b"trap":
        raise GuestError("trap: unreachable")
    return b"%d" % instance.number
