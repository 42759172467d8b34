"""What is known of header blocks that came before: a client repeats its own byte for byte, and then it is not parsed again.

Only blocks that the parser took whole are put in, and equal bytes parse equally; so what is remembered follows from the
bytes, and from the table of routes, at whose change everything is forgotten. Nothing that may be otherwise at the next
request (who calls, drain, rate) is in here.

Two generations bound it: when the young one is full it becomes the old one, and what is not asked for again goes with the
next. What many clients repeat stays, whatever one client sends between.
"""

from __future__ import annotations

from insula.edge.exchange import Facts, Head, Route
from insula.edge.metrics import RouteStats

#: Bytes of a block that is remembered, and of all blocks of one generation.
MAX_BLOCK = 4096
MAX_BYTES = 1 << 20
#: Blocks of one generation.
MAX_BLOCKS = 1024


class Known:
    """One head that the lane takes: `length` of its body, the id that its client sent ("" where it sent no sane one), its
    route, what the route's handler made of it, and where its route is counted. `said` are the fields of the last answer,
    and `wire` those fields as they go out, since most answers have the same."""

    __slots__ = ("facts", "head", "length", "request_id", "route", "said", "stats", "wire")

    def __init__(self, head: Head, length: int, request_id: str, route: Route, facts: Facts, stats: RouteStats) -> None:
        self.head = head
        self.length = length
        self.request_id = request_id
        self.route = route
        self.facts = facts
        self.stats = stats
        self.said: tuple[tuple[bytes, bytes], ...] | None = None
        self.wire = b""


class HeaderMemo:
    """Header blocks, as bytes from the method to the empty line, and what is known of each."""

    def __init__(self) -> None:
        self._young: dict[bytes, Known] = {}
        self._old: dict[bytes, Known] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, block: bytes) -> Known | None:
        """What is known of these bytes."""
        known = self._young.get(block)
        if known is None and self._old:
            known = self._old.pop(block, None)
            if known is not None:
                self.put(block, known)
        return known

    def put(self, block: bytes, known: Known) -> None:
        """Remembers a block, unless it is too long."""
        if len(block) > MAX_BLOCK:
            return
        if len(self._young) >= MAX_BLOCKS or self._bytes + len(block) > MAX_BYTES:
            self._old, self._young = self._young, {}
            self._bytes = 0
        self._young[block] = known
        self._bytes += len(block)

    def forget(self) -> None:
        """Forgets everything."""
        self._young.clear()
        self._old.clear()
        self._bytes = 0
