"""The route of what has none: 404, and where the path looks like a method, as a Connect client expects it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

from insula.edge.exchange import Head, HttpError, Response, Route
from insula.edge.rest import refusal
from insula.errors import Code, InsulaError, UnavailableError
from insula.gateways.connect_errors import error_response

_METHOD = re.compile(rb"/[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+/[A-Za-z_]\w*", re.ASCII)


def looks_like_a_method(path: bytes) -> bool:
    """`/{namespace}.{Service}/{method}`, or anything below `/connect`."""
    return path.startswith(b"/connect/") or _METHOD.fullmatch(path) is not None


class Missing:
    """Refuses every request: `unimplemented` in Connect's shape for a method, else `not_found` in the REST shape. `stopped`
    gives the full id of a service by a name that it would answer to, where it is deployed and could not be started: that is
    `unavailable`, and so is everything that has no route while the server is `starting`."""

    def __init__(self, stopped: Callable[[str], str | None], starting: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._starting = starting

    def prepare(self, head: Head) -> NoReturn:
        """Always a 404, or a 503."""
        if self._starting():
            raise UnavailableError(
                "the server is starting", reason="starting", hint="try again in a moment", retry_after=1.0
            )
        if looks_like_a_method(head.path):
            name = head.path.removeprefix(b"/connect").split(b"/")[1].decode("latin-1")
            service = self._stopped(name)
            if service is not None:
                raise UnavailableError(
                    f"{service} is deployed and could not be started",
                    reason="not_started",
                    hint=f"its operator finds out why with: insula show {service}",
                )
            raise HttpError(
                "no service with this method is deployed here", 404, hint="`insula list` shows the services that are"
            )
        raise HttpError("there is nothing at this path", 404, code=Code.NOT_FOUND, hint="GET / says what is where")

    def refuse(self, head: Head, error: InsulaError) -> Response:
        """The error in the shape that the path asks for."""
        return error_response(error) if looks_like_a_method(head.path) else refusal(head, error)


def missing_route(
    stopped: Callable[[str], str | None] = lambda name: None, starting: Callable[[], bool] = lambda: False
) -> Route:
    """Where every path leads that no other route has; the callables as of `Missing`."""
    return Route(Missing(stopped, starting), "missing", methods=frozenset())
