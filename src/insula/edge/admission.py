"""The rules of who comes in, as an ordered tuple of plain synchronous checks: the one place for every gateway.

A check sees the head and the route and answers a refusal or nothing; it waits for nothing. A check that proves who calls
puts the principal on the head. Each is asked at every request, before any of the body is read, by whichever road the
request came in; but the lane asks only those that `concern` the route, which follows from the route alone. A rule that
begins to hold, such as `Draining`, is put before the others by assignment (`Application.checks`).
"""

from __future__ import annotations

from collections.abc import Iterable

from insula.edge.exchange import Check, Head, Route
from insula.errors import Code, InsulaError, UnavailableError


def admit(checks: Iterable[Check], head: Head, route: Route) -> InsulaError | None:
    """The first refusal, or None where every check lets the request in."""
    for check in checks:
        refusal = check(head, route)
        if refusal is not None:
            return refusal
    return None


class Draining:
    """Refuses new work, once the server has begun to stop. Routes that `always` answer (health) are let in."""

    def __init__(self, always: frozenset[str] = frozenset(), retry_after: float = 5.0) -> None:
        self._always = always
        self._retry_after = retry_after

    def concerns(self, route: Route) -> bool:
        """All but those that always answer."""
        return route.label not in self._always

    def __call__(self, _: Head, route: Route) -> InsulaError | None:
        if route.label in self._always:
            return None
        return UnavailableError(
            "the server is stopping", reason="draining", hint="try again shortly", retry_after=self._retry_after
        )


class Identified:
    """Refuses a route that needs an identity where no check before this one has proved any, or not the role."""

    def concerns(self, route: Route) -> bool:
        """A route that asks for an identity."""
        return route.policy.authenticated or bool(route.policy.roles)

    def __call__(self, head: Head, route: Route) -> InsulaError | None:
        if not self.concerns(route):
            return None
        if head.principal is None:
            return InsulaError(
                "this method needs an identity",
                code=Code.UNAUTHENTICATED,
                hint="send a token as Authorization: Bearer; this server has no way yet to prove one",
            )
        roles = route.policy.roles
        if roles and not set(roles) & set(head.principal.roles):
            return InsulaError("this identity has none of the roles that the method needs", code=Code.PERMISSION_DENIED)
        return None
