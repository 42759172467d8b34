"""What a gateway is, and what it sees: one protocol, as a function of everything that is published.

A gateway gives its routes in groups. A group has a key: what its routes follow from. As long as the key is there its routes
stay as they are, so that a deploy costs what it changes. A protocol that serves each service by itself has the `Offer` as
the key; one that needs all of a namespace (GraphQL, reflection) has the offers of that namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, Protocol

from insula.edge.exchange import Route
from insula.plans import Plan
from insula.published import Published


class Offer:
    """One service of the table. `plans` are its methods; `latest`: paths without a version lead to it. Offers are equal if
    they are the same object: one stands for one generation, and for whether that is the latest."""

    __slots__ = ("latest", "plans", "published")

    def __init__(self, published: Published, plans: tuple[Plan, ...], *, latest: bool) -> None:
        self.published = published
        self.plans = plans
        self.latest = latest


class Group(NamedTuple):
    """Routes that come and go together. `make` is called once, when the key is new."""

    key: Hashable
    make: Callable[[], Iterable[tuple[bytes, Route]]]


class Gateway(Protocol):
    """One protocol: wire in, Call out; Reply in, wire out."""

    def routes(self, offers: Sequence[Offer], /) -> Iterable[Group]:
        """The groups of routes for everything that is offered, in order of deployment. Quick: called at each change."""
