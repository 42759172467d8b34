"""All gateways over one application: its routes follow what is published."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from insula.edge.app import Application
from insula.edge.exchange import Route
from insula.gateways.contract import Gateway, Offer


class Gateways:
    """Keeps the routes of an application in step with what is offered, protocol by protocol."""

    def __init__(self, application: Application, gateways: Sequence[Gateway]) -> None:
        self._application = application
        self._gateways = tuple(gateways)
        self._made: dict[tuple[int, Hashable], list[tuple[bytes, Route]]] = {}

    def follow(self, offers: Sequence[Offer]) -> Callable[[], None]:
        """Makes the routes of a new table: groups that stay are left alone. What it returns puts them in place. CallerError
        where two of them want one path and cannot be told apart there."""
        made = self._made
        groups = {
            (number, group.key): group.make
            for number, gateway in enumerate(self._gateways)
            for group in gateway.routes(offers)
        }
        gone = made.keys() - groups.keys()
        come = {key: list(make()) for key, make in groups.items() if key not in made}
        settle_routes = self._application.changed(
            (pair for key in gone for pair in made[key]), (pair for pairs in come.values() for pair in pairs)
        )

        def settle() -> None:
            settle_routes()
            for key in gone:
                del made[key]
            made.update(come)

        return settle
