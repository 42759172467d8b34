"""Protocols that share a path, told apart by method and content type.

Routes that say which content types they take may stand at the same path, such as those of Connect and gRPC-Web at the path
of a method. A request goes to the first whose method and content type it has, else to the first that has its method, which
refuses the type in its own words.
"""

from __future__ import annotations

from insula.edge.exchange import Head, Response, Route
from insula.errors import InsulaError


def media_type(value: bytes | None) -> bytes:
    """A content type in lower case without its parameters; b"" where there is none."""
    return b"" if value is None else value.partition(b";")[0].strip().lower()


class Shared:
    """What a path leads to that several protocols answer at."""

    __slots__ = ("routes",)

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = routes

    def of(self, head: Head) -> Route | None:
        """The route of a request; None where none has its method. The one of GET has HEAD too."""
        method = "GET" if head.method == "HEAD" else head.method
        wanted = [route for route in self.routes if method in route.methods]
        if len(wanted) > 1:
            kind = media_type(head.get(b"content-type"))
            for route in wanted:
                if kind in route.takes:
                    return route
        return wanted[0] if wanted else None

    def refuse(self, head: Head, error: InsulaError) -> Response:
        """An error of a request that no route has the method of, in the shape of the first."""
        return self.routes[0].handler.refuse(head, error)


def shared(present: Route, route: Route) -> Route | None:
    """One route for both, or None where they may not share a path: one of them takes any content type, or both the same."""
    routes = _routes(present)
    if not route.takes or any(not one.takes or one.takes & route.takes for one in routes):
        return None
    return together((*routes, route))


def without(present: Route, route: Route) -> Route | None:
    """What is at the path once a route has left it; None where that is nothing."""
    rest = tuple(one for one in _routes(present) if one is not route)
    if not rest:
        return None
    return rest[0] if len(rest) == 1 else together(rest)


def _routes(route: Route) -> tuple[Route, ...]:
    return route.handler.routes if isinstance(route.handler, Shared) else (route,)


def together(routes: tuple[Route, ...]) -> Route:
    """One route for several, which differ in their methods or in what they take."""
    first = routes[0]
    methods = frozenset[str]().union(*(route.methods for route in routes))
    upgrades = frozenset[bytes]().union(*(route.upgrades for route in routes))
    return Route(Shared(routes), first.label, methods, first.policy, tenant=first.tenant, upgrades=upgrades)
