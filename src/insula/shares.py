"""Shares of something bounded that tenants use together: places in a queue, fibers, bytes.

Each tenant may have at most as much as is still free (Choudhury and Hahne, "Dynamic Queue Length Thresholds for
Shared-Memory Packet Switches", 1998, with alpha = 1). One tenant alone gets half of the whole; n greedy ones get 1/(n+1)
each, and as much stays free for the next. So a tenant that is refused is one that has taken much, and a newcomer always
finds room. A reserve is left to the server itself.

Not thread-safe: one thread, mostly the event loop, owns a `Shares`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Shares(Generic[K]):
    """`most` units, of which `reserve` are the server's own. A key is a tenant, for example a service's name."""

    __slots__ = ("_free", "_used", "most")

    def __init__(self, most: int, *, reserve: int = 0) -> None:
        self.most = most
        self._free = most - reserve
        self._used: dict[K, int] = {}

    @property
    def free(self) -> int:
        """Units that tenants may still take."""
        return self._free

    def used(self, key: K) -> int:
        """Units that this tenant has."""
        return self._used.get(key, 0)

    def has_room(self, key: K, units: int = 1) -> bool:
        """True if `take` would succeed."""
        return self._used.get(key, 0) + units <= self._free

    def take(self, key: K, units: int = 1) -> bool:
        """Takes units for a tenant; False, and nothing taken, if it would then have more than is free."""
        used = self._used.get(key, 0)
        if used + units > self._free:
            return False
        self._used[key] = used + units
        self._free -= units
        return True

    def take_anyway(self, key: K, units: int = 1) -> None:
        """Takes units for a tenant that can no longer be refused, beyond its share and the whole if need be."""
        self._used[key] = self._used.get(key, 0) + units
        self._free -= units

    def give(self, key: K, units: int = 1) -> None:
        """Gives back what `take` or `take_anyway` took."""
        left = self._used[key] - units
        if left:
            self._used[key] = left
        else:
            del self._used[key]
        self._free += units
