"""What is known of header blocks that came before: a client repeats its own byte for byte, and then it is not parsed again.

Only blocks that the parser took whole are put in, and equal bytes parse equally; so what is remembered follows from the
bytes, from the table of routes and from which rules there are, at whose change everything is forgotten. Nothing that may
be otherwise at the next request (who calls, rate) is in here.

Two generations bound it: when the young one is full it becomes the old one, and what is not asked for again goes with the
next. What many clients repeat stays, whatever one client sends between.
"""

from __future__ import annotations

from insula.edge.admission import Rule
from insula.edge.exchange import Answerer, Head, Route
from insula.edge.metrics import RouteStats
from insula.edge.observing import RouteObserver

#: Bytes of a block that is remembered, and of all blocks of one generation.
MAX_BLOCK = 4096
MAX_BYTES = 1 << 20
#: Blocks of one generation.
MAX_BLOCKS = 1024


class Known:
    """One head that the lane takes: `length` of its body, the id that its client sent ("" where it sent no sane one), its
    route, the rules that concern that, what answers requests with this head, who observes them, and their numbers.

    Most answers have the same fields: `said` are those of the last one, `defaults` what the listener put before them, and
    `begin` a whole 200 with both, up to where its length stands."""

    __slots__ = (
        *(
            "answer",
            "begin",
            "defaults",
            "headers",
            "length",
            "observers",
            "path",
            "request_id",
            "route",
            "rules",
            "said",
        ),
        *("stats",),
    )

    def __init__(
        self,
        head: Head,
        length: int,
        request_id: str,
        route: Route,
        rules: tuple[Rule, ...],
        answer: Answerer,
        stats: RouteStats,
        observers: tuple[RouteObserver, ...],
    ) -> None:
        self.path = head.path
        self.headers = head.headers
        self.length = length
        self.request_id = request_id
        self.route = route
        self.answer = answer
        self.rules = rules
        self.stats = stats
        self.observers = observers
        self.said: tuple[tuple[bytes, bytes], ...] | None = None
        self.defaults: list[tuple[bytes, bytes]] | None = None
        self.begin = b""


class HeaderMemo:
    """Header blocks, as bytes from the method to the empty line, and what is known of each."""

    def __init__(self) -> None:
        self.young: dict[bytes, Known] = {}  # looked up straight by the connection; only `put` adds to it
        self._old: dict[bytes, Known] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def get(self, block: bytes) -> Known | None:
        """The entry of these bytes; None if there is none."""
        known = self.young.get(block)
        if known is None and self._old:
            known = self._old.pop(block, None)
            if known is not None:
                self.put(block, known)
        return known

    def put(self, block: bytes, known: Known) -> None:
        """Remembers a block, unless it is too long."""
        if len(block) > MAX_BLOCK:
            return
        if len(self.young) >= MAX_BLOCKS or self._bytes + len(block) > MAX_BYTES:
            self._old, self.young = self.young, {}
            self._bytes = 0
        self.young[block] = known
        self._bytes += len(block)

    def forget(self) -> None:
        """Forgets everything."""
        self.young.clear()
        self._old.clear()
        self._bytes = 0
