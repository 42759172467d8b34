"""The one table of what a path leads to: immutable, swapped whole, a clash refused when it is made.

A deploy changes few paths of many. So the next table is a copy of the present one, made in one step, from which the old
paths are removed and to which the new ones are added.
"""

from __future__ import annotations

from collections.abc import Iterable

from insula.edge.exchange import Route
from insula.errors import CallerError, Code


class RouteTable:
    """Exact paths and prefixes. A prefix ends in `/`; of several that match, the longest wins; exact paths come first.
    `labels` are those of its routes, with the number of paths of each."""

    __slots__ = ("_lengths", "exact", "labels", "prefixes")

    def __init__(self, exact: Iterable[tuple[bytes, Route]], prefixes: Iterable[tuple[bytes, Route]] = ()) -> None:
        self.exact: dict[bytes, Route] = {}
        self.labels: dict[str, int] = {}
        self.prefixes = dict(prefixes)
        self._lengths = sorted({len(prefix) for prefix in self.prefixes}, reverse=True)
        for route in self.prefixes.values():
            self._label(route, 1)
        self._add(exact)

    def changed(self, gone: Iterable[tuple[bytes, Route]], come: Iterable[tuple[bytes, Route]]) -> RouteTable:
        """The table after some exact paths of this one, with their routes, have gone and others have come."""
        table = RouteTable(())
        table.exact, table.labels = self.exact.copy(), self.labels.copy()
        table.prefixes, table._lengths = self.prefixes, self._lengths
        for path, route in gone:
            del table.exact[path]
            table._label(route, -1)
        table._add(come)
        return table

    def find(self, path: bytes) -> Route | None:
        """The route of a raw path, or None."""
        route = self.exact.get(path)
        if route is None:
            for length in self._lengths:
                route = self.prefixes.get(path[:length])
                if route is not None:
                    break
        return route

    def _add(self, exact: Iterable[tuple[bytes, Route]]) -> None:
        for path, route in exact:
            if path in self.exact:
                raise CallerError(
                    f"the path {path.decode()} is taken by {self.exact[path].label}", code=Code.ALREADY_EXISTS
                )
            self.exact[path] = route
            self._label(route, 1)

    def _label(self, route: Route, paths: int) -> None:
        number = self.labels.get(route.label, 0) + paths
        if number:
            self.labels[route.label] = number
        else:
            del self.labels[route.label]
