"""`okra.time`: `now {}` -> `{timestamp (Unix ms), timezone, iso8601}`; `sleep {milliseconds}` -> null.

The time is UTC, whatever the machine's zone is: where a server stands is not a guest's to know. A sleep costs no thread
and is never shorter than asked. One that would go past the call's deadline is ended there by the engine, and the call with
it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

import msgspec

from insula.calls import ServiceId
from insula.host.contract import Configured, Operation
from insula.host.options import no_options
from insula.host.parameters import read
from insula.host.scope import Scope
from insula.host.services import HostServices
from insula.times import rfc3339


class _Sleep(msgspec.Struct, gc=False):
    milliseconds: Annotated[float, msgspec.Meta(ge=0)]


#: The longest wait (s) that is asked of the event loop: more than a call may take.
_LONGEST = 86_400.0
#: The shortest (s): a timer of a millisecond's grain takes less for nothing.
_SHORTEST = 0.001

_sleeps = msgspec.json.Decoder(_Sleep)


class TimeCapability:
    """`wall` is seconds since 1970, `monotonic` the clock of deadlines; `sleep` waits that many seconds."""

    name = "okra.time"

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._sleep = sleep

    def configure(self, _service: ServiceId, options: Mapping[str, Any]) -> ServiceTime:
        no_options(self.name, options)
        return ServiceTime(self._wall, self._monotonic, self._sleep)


class ServiceTime(Configured):
    """The clock of one service."""

    def __init__(
        self, wall: Callable[[], float], monotonic: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._sleep = sleep

    def now(self) -> int:
        """Milliseconds since 1970."""
        return int(self._wall() * 1000)

    async def sleep(self, seconds: float) -> None:
        """Waits for so long, and never less."""
        end = self._monotonic() + seconds
        await self._sleep(min(seconds, _LONGEST))
        while (rest := end - self._monotonic()) > 0:  # the timer fired early
            await self._sleep(min(max(rest, _SHORTEST), _LONGEST))

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {"now": self._now, "sleep": self._sleep_for}

    def _now(self, _scope: Scope, _parameters: bytes) -> bytes:
        milliseconds = self.now()
        return b'{"timestamp":%d,"timezone":"UTC","iso8601":"%b"}' % (
            milliseconds,
            rfc3339(milliseconds / 1000).encode(),
        )

    def _sleep_for(self, _scope: Scope, parameters: bytes) -> Awaitable[bytes]:
        return self._slept(read(_sleeps, parameters).milliseconds / 1000)

    async def _slept(self, seconds: float) -> bytes:
        await self.sleep(seconds)
        return b"null"


def capability(_services: HostServices) -> TimeCapability:
    return TimeCapability()
