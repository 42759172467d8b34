"""Admission: the ordered list of rules that stands before every route, whichever road a request comes by.

A rule sees the head and the route, before any of the body is read. It lets the request in (None), refuses it (an error), or
has to wait for what only a store or a peer knows (an awaitable of either). It may put the principal that it has proved on
the head, and fields that the answer is to have (`Head.fields`): refusals have them too. The rules after one that waits are
asked once it is done. The lane never waits: it hands such a request to the ordinary road, where the time is bounded by the
route's timeout, counted from when the head came.

A rule is asked only on routes that it concerns, which follows from the route alone: other routes pay nothing for it. A rule
that begins to hold, such as `Draining`, is put before the others by assignment (`Application.rules`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from time import monotonic
from typing import Any, Protocol, TypeAlias

from insula.authorisation import authorise, is_open
from insula.edge.exchange import Head, HttpError, Response, Route
from insula.errors import DeadlineError, InsulaError, UnavailableError

#: What a rule says: nothing lets in, an error refuses, an awaitable of either is waited for.
Verdict: TypeAlias = "InsulaError | Awaitable[InsulaError | None] | None"
#: A request that waits for a rule: the first refusal of it and the rules after it.
Waiting: TypeAlias = "Coroutine[Any, Any, InsulaError | None]"


class Rule(Protocol):
    """One rule: a quick synchronous function, called on the event loop."""

    def concerns(self, route: Route) -> bool:
        """Whether it may ever refuse, prove or add anything on this route."""

    def __call__(self, head: Head, route: Route, /) -> Verdict: ...


def concerning(rules: Sequence[Rule], route: Route) -> tuple[Rule, ...]:
    """The rules that concern a route, in order."""
    return tuple(rule for rule in rules if rule.concerns(route))


def admit(rules: Sequence[Rule], head: Head, route: Route) -> InsulaError | Waiting | None:
    """What the rules that concern the route say: the first refusal; None where every rule lets the request in; a coroutine,
    to be awaited in any case, where one has to wait."""
    for place, rule in enumerate(rules):
        verdict = rule(head, route)
        if verdict is not None:
            if isinstance(verdict, InsulaError):
                return verdict
            return _after(verdict, rules[place + 1 :], head, route)
    return None


async def _after(verdict: Awaitable[InsulaError | None], rest: Sequence[Rule], head: Head, route: Route) -> Any:
    refusal = await verdict
    if refusal is not None:
        return refusal
    more = admit(rest, head, route)
    return more if more is None or isinstance(more, InsulaError) else await more


async def waited(waiting: Waiting, head: Head, route: Route) -> None:
    """Waits for the rules; raises their refusal, or DeadlineError where the route's time is over first. Nothing is read
    meanwhile."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(loop.time() + head.received + route.timeout - monotonic()) as clock:
            refusal = await waiting
    except TimeoutError:
        if not clock.expired():
            raise
        raise DeadlineError("the time for this request was over before it was known whether it may be made") from None
    if refusal is not None:
        raise refusal


async def enter(rules: Sequence[Rule], head: Head, route: Route) -> Response | None:
    """Admission as the ordinary road has it: the rules, then the methods of the route. The answer to OPTIONS, or None for a
    request that goes on; raises the refusal."""
    verdict = admit(concerning(rules, route), head, route)
    if verdict is not None:
        if isinstance(verdict, InsulaError):
            raise verdict
        await waited(verdict, head, route)
    methods = route.methods
    if not methods or head.method in methods:
        return None
    implied = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
    allow = (b"allow", b", ".join(sorted(method.encode() for method in implied)))
    if head.method == "OPTIONS":
        return Response(204, (allow,))
    takes = f"it takes {' and '.join(sorted(methods))}"
    if "POST" in methods:
        takes += "; with curl, -d '{}' makes a POST"
    raise HttpError(f"this path does not answer {head.method}", 405, hint=takes, fields=(allow,))


class Draining:
    """Refuses new work, once the server has begun to stop. Routes that `always` answer (health) are let in."""

    def __init__(self, always: frozenset[str] = frozenset(), retry_after: float = 5.0) -> None:
        self._always = always
        self._retry_after = retry_after

    def concerns(self, route: Route) -> bool:
        """All but those that always answer."""
        return route.label not in self._always

    def __call__(self, _: Head, __: Route) -> InsulaError | None:
        return UnavailableError(
            "the server is stopping", reason="draining", hint="try again shortly", retry_after=self._retry_after
        )


class Identified:
    """Refuses a call that needs an identity where no rule before this one has proved any, or not the role. A request with
    a method that the route does not take calls nothing: it gets its 405."""

    def concerns(self, route: Route) -> bool:
        """A route that asks for an identity."""
        return not is_open(route.policy)

    def __call__(self, head: Head, route: Route) -> InsulaError | None:
        if route.methods and head.method not in route.methods:
            return None
        return authorise(route.policy, head.principal)
