"""The order in which services get the database, and how many of their reads and writes may wait.

The server's own work (deployments, sweeps) goes first. Services take turns: each gives one unit, then the next does, so a
service with a thousand waiting units delays another's by one round and not by a thousand. `Places` bounds what waits, by
shares, and `Turns` orders it. They are apart because the writer's thread orders what the event loop has let in.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from insula.errors import LimitError
from insula.rotation import Rotation
from insula.shares import Shares

#: The tenant of the server's own work.
SERVER = ""

#: Bytes of values that writes hold while they wait.
MAX_BYTES = 128 << 20

#: One place in so many is kept for the server's own work.
_RESERVED = 8


class Waiting(Protocol):
    """What waits. `tenant` is a service, or `SERVER`."""

    @property
    def tenant(self) -> str: ...


W = TypeVar("W", bound=Waiting)


class Turns(Generic[W]):
    """A queue that gives the server's own jobs first, then one of each tenant in turn. Not thread-safe."""

    __slots__ = ("_own", "_rest")

    def __init__(self) -> None:
        self._own: deque[W] = deque()
        self._rest: Rotation[str, W] = Rotation()

    def __len__(self) -> int:
        return len(self._own) + len(self._rest)

    def put(self, job: W) -> None:
        """Adds behind the other jobs of its tenant."""
        if job.tenant == SERVER:
            self._own.append(job)
        else:
            self._rest.put(job.tenant, job)

    def take(self) -> W:
        """The next; IndexError where nothing waits."""
        if self._own:
            return self._own.popleft()
        taken = self._rest.take()
        if taken is None:
            raise IndexError("nothing waits")
        return taken[1]


class Places:
    """The places of operations that wait: `most` in all, a share of them for each service, a reserve for the server itself;
    and `MAX_BYTES` that their values may hold, in shares as well. Belongs to one thread. `what` names what waits, for
    messages (`writes`)."""

    def __init__(self, most: int, what: str) -> None:
        self._what = what
        self._reserve = max(1, most // _RESERVED)
        self._shares: Shares[str] = Shares(most, reserve=self._reserve)
        self._bytes: Shares[str] = Shares(MAX_BYTES)
        self._own = 0

    def enter(self, tenant: str, size: int = 0) -> None:
        """Takes a place, and `size` bytes. LimitError where this tenant has its share already; who has little is not
        refused because others have much."""
        if tenant == SERVER and self._own < self._reserve:
            self._own += 1
            return
        for shares, units, unit in ((self._bytes, size, "bytes"), (self._shares, 1, "places")):
            if not shares.has_room(tenant, units):
                who = tenant or "the server itself"
                raise LimitError(
                    f"{who} has {shares.used(tenant)} {unit} of the {shares.most} that {self._what} may take while they "
                    "wait for the database, and may have no more than it leaves free for others",
                    reason="database_share",
                    hint="wait for the answers to some before the next",
                    retry_after=1,
                )
        self._shares.take(tenant)
        if size:
            self._bytes.take(tenant, size)

    def leave(self, tenant: str, size: int = 0) -> None:
        """Gives back what `enter` took."""
        if tenant == SERVER and not self._shares.used(SERVER):
            self._own -= 1
            return
        self._shares.give(tenant)
        if size:
            self._bytes.give(tenant, size)
