"""What an instance does outside of calls: when it starts, and before it goes.

An instance that goes in an orderly way (its service is replaced, undeployed or stopped, or it was idle for long) takes no
calls any more. Its `drain` is asked until it has no work left, then its `close` is called once, then the instance is
closed. Each of these entries may call the host, and ends at its deadline. One that fails is logged, and the instance is
closed all the same. An instance that a trap, an exit or a deadline has killed is not entered again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from insula.calls import Call, ServiceId
from insula.errors import GuestError, InsulaError
from insula.host.scope import Home, Phase, Scope
from insula.services.clock import Clock
from insula.wasm.contract import Exchange, Instance, Program, Runner

log = logging.getLogger("insula.services")

#: Seconds between two questions whether a draining instance is idle: at least, and at most.
_SOON, _LATER = 0.001, 0.1


@dataclass(frozen=True, slots=True)
class Entry:
    """An export that is entered outside of calls, with an empty input, for `timeout` seconds at most."""

    exchange: Exchange
    timeout: float


@dataclass(frozen=True, slots=True)
class Life:
    """The entries of a kind's instances. `start` follows `_initialize`, and what it answers is passed over. `drain` answers
    the milliseconds of work that are left, as decimal digits: `0` is idle."""

    start: Entry | None = None
    drain: Entry | None = None
    close: Entry | None = None


class Lives:
    """The life of the instances of one service. `prepare` makes a home ready before its instance starts."""

    def __init__(
        self, service: ServiceId, program: Program, life: Life, clock: Clock, prepare: Callable[[Home], None]
    ) -> None:
        self._service = service
        self._program = program
        self._clock = clock
        self._prepare = prepare
        self._life = life
        self._runners: dict[Phase, Runner] = {}
        #: Whether the instances have something to do before they go.
        self.ends = life.drain is not None or life.close is not None

    async def start(self) -> Instance:
        """A new instance that is ready for calls, with its home. Fails with InsulaError, and leaves nothing."""
        home = Home(self._service)
        try:
            self._prepare(home)
            scope = self._scope(home, Phase.START, self._program.start_timeout)
            try:
                instance = await self._program.instantiate(scope)
            finally:
                scope.end()
        except BaseException:
            home.end()
            raise
        instance.home = home
        if self._life.start is None:
            return instance
        try:
            await self._enter(instance, Phase.START, self._life.start)
        except BaseException:
            self.close(instance)
            raise
        if not instance.alive:
            self.close(instance)
            raise GuestError("the guest ended when it started")
        return instance

    async def end(self, instance: Instance) -> None:
        """Drains an instance and runs its `close`, each until its deadline. The caller closes it."""
        life = self._life
        for phase, work in ((Phase.DRAIN, life.drain), (Phase.CLOSE, life.close)):
            if work is None or not instance.alive:
                continue
            try:
                if phase is Phase.DRAIN:
                    await self._drain(instance, work)
                else:
                    await self._enter(instance, phase, work)
            except InsulaError as error:
                log.warning("%s: an instance failed in its %s: %s", self._service, phase.value, error.message)

    @staticmethod
    def close(instance: Instance) -> None:
        """Frees an instance; what is to be undone for it is."""
        instance.close()
        if instance.home is not None:
            instance.home.end()

    async def _drain(self, instance: Instance, work: Entry) -> None:
        end = self._clock.now() + work.timeout
        while instance.alive:
            answer = await self._enter(instance, Phase.DRAIN, work, end)
            if not answer.isdigit():
                raise GuestError(f"what it answered is no number of milliseconds: {answer[:40]!r}")
            left = end - self._clock.now()
            if not int(answer):
                return
            if left <= 0:
                log.warning("%s: an instance has work left after its %g s to drain", self._service, work.timeout)
                return
            await self._sleep(min(left, max(_SOON, min(_LATER, int(answer[:9]) / 1000))))

    async def _enter(self, instance: Instance, phase: Phase, work: Entry, end: float | None = None) -> bytes:
        run = self._runners.get(phase)
        if run is None:
            run = self._runners[phase] = self._program.runner(work.exchange)
        deadline = self._clock.now() + work.timeout if end is None else end
        scope = self._scope(instance.home, phase, deadline - self._clock.now())
        try:
            answer = run(instance, b"", scope, deadline)
            return answer if isinstance(answer, bytes) else await answer
        finally:
            scope.end()

    def _scope(self, home: Any, phase: Phase, seconds: float) -> Scope:
        call = Call(self._service, "", b"", self._clock.now() + seconds)
        return Scope(self._service, call, home, phase)

    async def _sleep(self, seconds: float) -> None:
        over = asyncio.Event()
        timer = self._clock.call_later(seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()
