"""The one table of what a path leads to: immutable, swapped whole, a clash refused when it is made."""

from __future__ import annotations

from collections.abc import Iterable

from insula.edge.exchange import Route
from insula.errors import CallerError, Code


class RouteTable:
    """Exact paths and prefixes. A prefix ends in `/`; of several that match, the longest wins; exact paths come first."""

    __slots__ = ("exact", "prefixes")

    def __init__(self, exact: Iterable[tuple[bytes, Route]], prefixes: Iterable[tuple[bytes, Route]] = ()) -> None:
        self.exact: dict[bytes, Route] = {}
        for path, route in exact:
            if path in self.exact:
                raise CallerError(
                    f"the path {path.decode()} is taken by {self.exact[path].label}", code=Code.ALREADY_EXISTS
                )
            self.exact[path] = route
        self.prefixes = sorted(prefixes, key=lambda pair: len(pair[0]), reverse=True)

    def find(self, path: bytes) -> Route | None:
        """The route of a raw path, or None."""
        route = self.exact.get(path)
        if route is None:
            for prefix, candidate in self.prefixes:
                if path.startswith(prefix):
                    return candidate
        return route
