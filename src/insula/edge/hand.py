"""The bodies that are worked on, whole and not answered yet: each service has its share of their bytes."""

from __future__ import annotations

from insula.errors import UnavailableError
from insula.shares import Shares

#: Bodies of this size and more are counted while they wait for their answer.
COUNTED_FROM = 65_536


class Hand:
    """The bytes of one body that is worked on, in the share of its tenant; small bodies are not counted. A body that is
    larger than the largest share counts as that share."""

    __slots__ = ("_shares", "_tenant", "_units")

    def __init__(self, shares: Shares[str], tenant: str) -> None:
        self._shares = shares
        self._tenant = tenant
        self._units = 0

    def has(self, size: int) -> None:
        """Notes how large the body is now; UnavailableError where there is no room for it."""
        units = min(size, self._shares.most // 2) if size >= COUNTED_FROM else 0
        more = units - self._units
        if more < 0:
            self._shares.give(self._tenant, -more)
        elif more and not self._shares.take(self._tenant, more):
            raise UnavailableError(
                "the server works on as many large requests to this service as it can hold",
                reason="backlog_full",
                hint="try again in a moment",
                retry_after=1.0,
            )
        self._units = units
