"""The one table of what a path leads to: immutable, swapped whole, a clash refused when it is made.

Of several that match, an exact path comes first, then a template (`/items/{id}/undo`, where a part in braces is any part),
then the longest prefix. Routes of protocols that are told apart by content type may share an exact path (`sharing.py`).

A deploy changes few paths of many. So the next table is a copy of the present one, made in one step, from which the old
paths are removed and to which the new ones are added.
"""

from __future__ import annotations

from collections.abc import Iterable

from insula.edge.exchange import Route
from insula.edge.sharing import shared, without
from insula.errors import CallerError, Code


class RouteTable:
    """Exact paths, prefixes (each ends in `/`) and templates. `labels` are those of its routes, with the number of paths of
    each. Templates and prefixes stay when exact paths change."""

    __slots__ = ("_lengths", "_templates", "exact", "labels", "prefixes")

    def __init__(
        self,
        exact: Iterable[tuple[bytes, Route]],
        prefixes: Iterable[tuple[bytes, Route]] = (),
        templates: Iterable[tuple[bytes, Route]] = (),
    ) -> None:
        self.exact: dict[bytes, Route] = {}
        self.labels: dict[str, int] = {}
        self.prefixes = dict(prefixes)
        self._lengths = sorted({len(prefix) for prefix in self.prefixes}, reverse=True)
        self._templates = [(path.split(b"/"), route) for path, route in templates]
        for route in (*self.prefixes.values(), *(route for _, route in self._templates)):
            self._label(route, 1)
        self._add(exact)

    def changed(self, gone: Iterable[tuple[bytes, Route]], come: Iterable[tuple[bytes, Route]]) -> RouteTable:
        """The table after some exact paths of this one, with their routes, have gone and others have come."""
        table = RouteTable(())
        table.exact, table.labels = self.exact.copy(), self.labels.copy()
        table.prefixes, table._lengths, table._templates = self.prefixes, self._lengths, self._templates
        for path, route in gone:
            left = without(table.exact[path], route)
            if left is None:
                del table.exact[path]
            else:
                table.exact[path] = left
            table._label(route, -1)
        table._add(come)
        return table

    def find(self, path: bytes) -> Route | None:
        """The route of a raw path, or None."""
        route = self.exact.get(path)
        if route is None and self._templates:
            parts = path.split(b"/")
            for template, leads in self._templates:
                if len(template) == len(parts) and all(map(_is_part, template, parts)):
                    return leads
        if route is None:
            for length in self._lengths:
                route = self.prefixes.get(path[:length])
                if route is not None:
                    break
        return route

    def _add(self, exact: Iterable[tuple[bytes, Route]]) -> None:
        for path, route in exact:
            present = self.exact.get(path)
            both = route if present is None else shared(present, route)
            if both is None:
                raise CallerError(
                    f"the path {path.decode()} is taken by {self.exact[path].label}", code=Code.ALREADY_EXISTS
                )
            self.exact[path] = both
            self._label(route, 1)

    def _label(self, route: Route, paths: int) -> None:
        number = self.labels.get(route.label, 0) + paths
        if number:
            self.labels[route.label] = number
        else:
            del self.labels[route.label]


def _is_part(template: bytes, part: bytes) -> bool:
    return part == template if template[:1] != b"{" else bool(part)
