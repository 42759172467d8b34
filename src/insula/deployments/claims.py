"""Claims of services that are being changed: one change of a service at a time, and no two whose names clash.

A change claims its service from before its package is staged until it is live or given up. A second change is
refused at once with 409 rather than queued, so that its sender decides by what it then sees. A claim is checked and made
without a wait between, so two that clash cannot both be let in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from insula.calls import ServiceId
from insula.errors import CallerError, Code


class Claims:
    """The claims of one server. Lives on the event loop."""

    def __init__(self) -> None:
        self._claimed: set[str] = set()
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def claim(self, service_id: str, *, deployed: Iterable[str] = ()) -> Iterator[None]:
        """Holds the service, and the names that it answers to, for the block. CallerError (409): `aborted` where another
        change has them, `already_exists` where one of `deployed` does."""
        if service_id in self._claimed:
            raise CallerError(
                f"another change of {service_id} is under way",
                code=Code.ABORTED,
                hint="wait for it, look at the result with `insula list`, and try again",
            )
        for other in deployed:
            if (name := _shared(service_id, other)) is not None:
                raise CallerError(
                    f"{service_id} and {other} would both answer at /{name}/",
                    code=Code.ALREADY_EXISTS,
                    hint="give one of them another namespace, name or version",
                )
        for other in self._claimed:
            if (name := _shared(service_id, other)) is not None:
                raise CallerError(
                    f"{service_id} and {other}, of which a change is under way, would both answer at /{name}/",
                    code=Code.ABORTED,
                    hint="give one of them another namespace, name or version",
                )
        self._claimed.add(service_id)
        self._none.clear()
        try:
            yield
        finally:
            self._claimed.discard(service_id)
            if not self._claimed:
                self._none.set()

    async def ended(self, timeout: float) -> bool:
        """Waits until no change is under way, `timeout` seconds at most; whether that is so."""
        if self._claimed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._none.wait(), timeout)
        return not self._claimed


def _shared(one: str, other: str) -> str | None:
    """The name that both would answer to: the full id of one, which is that of the other without its version."""
    if one == other:
        return None
    if ServiceId.parse(other).unversioned == one:
        return one
    return other if ServiceId.parse(one).unversioned == other else None
