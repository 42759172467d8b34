"""Threads for what would hold the event loop and is done for a service: bodies that are inflated, answers that are
compressed, texts that are searched.

All services share them. One service never has every thread: one is left for the next service. The work that waits is taken
from each service in turn, and the number of pieces that may wait is shared (`shares.py`): a service that sends more than
the threads can do is refused, and no other is. The server's own work has threads of its own elsewhere.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from insula.background import fail, unheard
from insula.errors import UnavailableError
from insula.rotation import Rotation
from insula.shares import Shares
from insula.threads import Threads

T = TypeVar("T")

#: Pieces of work that may wait or run, of all services together.
MOST = 512


class _Job:
    __slots__ = ("call", "result", "tenant")

    def __init__(self, tenant: str, call: Callable[[], Any], result: asyncio.Future[Any]) -> None:
        self.tenant = tenant
        self.call = call
        self.result = result


class Offload:
    """Lives on one event loop; its threads are made when they are needed. One tenant has at most all of them but one.
    `refusal` is the message for a tenant whose share is used up."""

    def __init__(
        self,
        threads: int | None = None,
        most: int = MOST,
        *,
        name: str = "insula-edge",
        refusal: str = "this service has sent the server more to decompress than it can do",
    ) -> None:
        self._threads = threads or max(2, os.cpu_count() or 1) + 1
        self._refusal = refusal
        self._each = max(1, self._threads - 1)
        self._shares: Shares[str] = Shares(most)
        self._pool = Threads(self._threads, name)
        self._waiting: Rotation[str, _Job] = Rotation()
        self._running: Counter[str] = Counter()

    def has_room(self, tenant: str) -> bool:
        """Whether work of this tenant is taken now."""
        return self._shares.has_room(tenant)

    def run(self, tenant: str, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """What `function` returns, when a thread has run it. UnavailableError where too much of this tenant's waits; the
        future fails with it where the system gives no thread. Work whose future is cancelled before its turn is not
        done."""
        if not self._shares.take(tenant):
            raise UnavailableError(
                self._refusal,
                reason="backlog_full",
                hint="try again in a moment",
                retry_after=1.0,
            )
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.put(tenant, _Job(tenant, partial(function, *args), result))
        self._next()
        return result

    def close(self) -> None:
        """Ends the threads, once what they do is done."""
        for tenant in self._waiting.tenants:
            for job in self._waiting.waiting(tenant):
                job.result.cancel()
        self._pool.close()

    def _next(self) -> None:
        while self._running.total() < self._threads:
            taken = self._waiting.take(self._may_run)
            if taken is None:
                return
            _, job = taken
            if job.result.done():
                self._shares.give(job.tenant)
                continue
            try:
                work = self._pool.run(job.call)
            except UnavailableError as error:
                self._shares.give(job.tenant)
                fail(job.result, error)
                continue
            self._running[job.tenant] += 1
            work.add_done_callback(partial(self._done, job))

    def _may_run(self, tenant: str) -> bool:
        return self._running[tenant] < self._each

    def _done(self, job: _Job, work: asyncio.Future[Any]) -> None:
        self._running[job.tenant] -= 1
        if not self._running[job.tenant]:
            del self._running[job.tenant]
        self._shares.give(job.tenant)
        error = work.exception()
        if job.result.done():
            unheard(error, "work in a thread for a service")
        elif error is not None:
            fail(job.result, error)
        else:
            job.result.set_result(work.result())
        self._next()
