"""The route of what has none: 404, and where the path looks like a method, as a Connect client expects it."""

from __future__ import annotations

import re
from typing import NoReturn

from insula.edge.exchange import Head, HttpError, Response, Route
from insula.edge.rest import refusal
from insula.errors import Code, InsulaError
from insula.gateways.connect_errors import error_response

_METHOD = re.compile(rb"/[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+/[A-Za-z_]\w*", re.ASCII)


def looks_like_a_method(path: bytes) -> bool:
    """`/{namespace}.{Service}/{method}`, or anything below `/connect`."""
    return path.startswith(b"/connect/") or _METHOD.fullmatch(path) is not None


class Missing:
    """Refuses every request: `unimplemented` in Connect's shape for a method, else `not_found` in the REST shape."""

    def prepare(self, head: Head) -> NoReturn:
        """Always a 404."""
        if looks_like_a_method(head.path):
            raise HttpError(
                "no service with this method is deployed here", 404, hint="`insula list` shows the services that are"
            )
        raise HttpError("there is nothing at this path", 404, code=Code.NOT_FOUND, hint="GET / says what is where")

    def refuse(self, head: Head, error: InsulaError) -> Response:
        """The error in the shape that the path asks for."""
        return error_response(error) if looks_like_a_method(head.path) else refusal(head, error)


def missing_route() -> Route:
    """Where every path leads that no other route has."""
    return Route(Missing(), "missing", methods=frozenset())
