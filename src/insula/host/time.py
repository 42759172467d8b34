"""`okra.time`: `now {}` -> `{timestamp (Unix ms), timezone, iso8601}`; `sleep {milliseconds}` -> null.

The time is UTC, whatever the machine's zone is: where a server stands is not a guest's to know. A sleep costs no thread;
it ends with the call's deadline at the latest (error TIMEOUT, where the guest lives to see it).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from insula.calls import ServiceId
from insula.host.contract import HostError, Operation, Scope
from insula.host.options import no_options
from insula.host.parameters import read
from insula.host.services import HostServices


class _Sleep(msgspec.Struct, gc=False):
    milliseconds: Annotated[float, msgspec.Meta(ge=0)]


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

    def configure(self, _service: ServiceId, options: Mapping[str, Any]) -> Mapping[str, Operation]:
        no_options(self.name, options)
        return {"now": self._now, "sleep": self._sleep_until}

    def _now(self, _scope: Scope, _parameters: bytes) -> bytes:
        milliseconds = int(self._wall() * 1000)
        stamp = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
        return b'{"timestamp":%d,"timezone":"UTC","iso8601":"%b"}' % (
            milliseconds,
            stamp.replace("+00:00", "Z").encode(),
        )

    def _sleep_until(self, scope: Scope, parameters: bytes) -> Awaitable[bytes]:
        return self._slept(read(_sleeps, parameters).milliseconds / 1000, scope.call.deadline)

    async def _slept(self, seconds: float, deadline: float) -> bytes:
        remaining = deadline - self._monotonic()
        await self._sleep(max(0.0, min(seconds, remaining)))
        if seconds > remaining:
            raise HostError("TIMEOUT", "the call's deadline came before the end of the sleep")
        return b"null"


def capability(_services: HostServices) -> TimeCapability:
    return TimeCapability()
