"""Observers: each sees every request that the application answered, once, whichever road it came by.

An observer says which routes it looks at, when a request has found its route; what it gives for one is told of each answer.
The metrics are the first. The lane counts a quick answer for them by itself, as long as nobody else looks at its route.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

from insula.edge.exchange import Head, Route

_log = logging.getLogger("insula.edge")

#: The status that a request is told with whose client left before its answer.
CLIENT_GONE = 499


class RouteObserver(Protocol):
    """Sees the answers of one route."""

    def answered(self, head: Head, status: int, bytes_in: int, bytes_out: int, seconds: float) -> None:
        """One request was answered: quick, on the event loop. `head` has its id, its client and its principal; the bytes
        are of both bodies on the wire; `seconds` are from when the head came."""


class Observer(Protocol):
    """Sees the answers of one application."""

    def of(self, route: Route) -> RouteObserver | None:
        """What looks at this route, or None where nothing does."""


def observing(observers: Iterable[Observer], route: Route) -> tuple[RouteObserver, ...]:
    """Those that look at a route, in order."""
    return tuple(one for observer in observers if (one := observer.of(route)) is not None)


def answered(observers: Iterable[RouteObserver], head: Head, status: int, bytes_in: int, bytes_out: int) -> None:
    """Tells the observers of a route of one answer. Does not raise: what an observer fails at is logged."""
    seconds = monotonic() - head.received
    for observer in observers:
        try:
            observer.answered(head, status, bytes_in, bytes_out, seconds)
        except Exception:
            _log.exception("%s could not take note of request %s", type(observer).__name__, head.request_id)
