"""All gateways over one application: a deploy makes anew what it changes, and a protocol may need a whole namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from insula.calls import Reply, ServiceId
from insula.edge.app import Application
from insula.edge.exchange import Answer, Answerer, Head, Response, Route
from insula.edge.rest import refusal
from insula.edge.routes import RouteTable
from insula.edge.sharing import Shared
from insula.errors import CallerError, InsulaError
from insula.gateways.connect import ConnectGateway
from insula.gateways.contract import Gateway, Group, Offer
from insula.gateways.joined import Gateways
from insula.gateways.missing import missing_route
from insula.offload import Offload
from insula.plans import Codec, Plan, Policy
from tests.gateways.conftest import SCHEMA, published


class Index:
    """Tells the methods of a namespace."""

    def __init__(self, offers: tuple[Offer, ...]) -> None:
        self.methods = [f"{plan.service}/{plan.method}" for offer in offers for plan in offer.plans]

    def prepare(self, _: Head) -> Answerer:
        return self.answer

    def answer(self, _: Head, __: bytes) -> Answer:
        return Response(200, (), " ".join(self.methods).encode())

    def refuse(self, head: Head, error: InsulaError) -> Response:
        return refusal(head, error)


class Namespaces:
    """A protocol that needs all of a namespace: one path for each."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def routes(self, offers: Sequence[Offer]) -> Iterable[Group]:
        by_name: dict[str, list[Offer]] = {}
        for offer in offers:
            by_name.setdefault(offer.plans[0].service.namespace, []).append(offer)
        return [Group((name, *of), partial(self._of, name, tuple(of))) for name, of in by_name.items()]

    def _of(self, name: str, offers: tuple[Offer, ...]) -> Iterable[tuple[bytes, Route]]:
        self.made.append(name)
        assert all(offer.published.schema is SCHEMA for offer in offers)
        yield f"/index/{name}".encode(), Route(Index(offers), f"/index/{name}")


class Second:
    """A protocol at the paths of Connect, for content types of its own."""

    def routes(self, offers: Sequence[Offer]) -> Iterable[Group]:
        return [Group(offer, partial(self._of, offer)) for offer in offers]

    def _of(self, offer: Offer) -> Iterable[tuple[bytes, Route]]:
        for plan in offer.plans:
            label = f"/{plan.service}/{plan.method}"
            takes = frozenset((b"application/second",))
            yield label.encode(), Route(Index((offer,)), label, frozenset(("POST",)), takes=takes)


def none() -> Codec:
    raise NotImplementedError


def offer(name: str, *methods: str, latest: bool = True) -> Offer:
    service = ServiceId.parse(name)
    plans = (
        Plan(service, method, False, Policy(), 1.0, 10, none, none, lambda: lambda _: Reply(b"")) for method in methods
    )
    return Offer(published(SCHEMA), tuple(plans), latest=latest)


def joined(*gateways: Gateway) -> tuple[Application, Callable[..., None]]:
    app = Application(RouteTable(()), missing=missing_route())
    every = Gateways(app, gateways)
    return app, lambda *offers: every.follow(offers)()


def test_routes_of_what_stays_are_left_alone() -> None:
    namespaces = Namespaces()
    app, follow = joined(ConnectGateway(Offload()), namespaces)
    orders, stock, post = (
        offer("shop.Orders.v1", "place"),
        offer("shop.Stock.v1", "take"),
        offer("mail.Post.v1", "send"),
    )
    follow(orders, post)
    before = dict(app.table.exact)
    assert len(before) == 2 * 4 + 2
    assert namespaces.made == ["shop", "mail"]
    follow(orders, post, stock)
    assert namespaces.made == ["shop", "mail", "shop"]
    after = app.table.exact
    assert after[b"/index/mail"] is before[b"/index/mail"]
    assert after[b"/shop.Orders/place"] is before[b"/shop.Orders/place"]
    index = after[b"/index/shop"].handler
    assert isinstance(index, Index)
    assert index.methods == ["shop.Orders.v1/place", "shop.Stock.v1/take"]
    follow(post)
    assert set(app.table.exact) == {path for path in before if b"shop" not in path}
    follow()
    assert app.table.exact == {}
    assert app.table.labels == {}


def test_a_clash_changes_nothing() -> None:
    app, follow = joined(ConnectGateway(Offload()))
    one = offer("shop.Orders.v1", "place")
    follow(one)
    table = app.table
    with pytest.raises(CallerError, match="is taken by"):
        follow(one, offer("shop.Orders.v1", "place"))
    assert app.table is table
    follow(one, offer("shop.Orders.v2", "place", latest=False))
    assert len(app.table.exact) == 6


def test_two_protocols_at_the_path_of_a_method() -> None:
    app, follow = joined(ConnectGateway(Offload()), Second())
    one = offer("shop.Orders.v1", "place")
    follow(one)
    both = app.table.exact[b"/shop.Orders.v1/place"].handler
    assert isinstance(both, Shared)
    assert [sorted(route.takes) for route in both.routes] == [
        [b"application/json", b"application/proto"],
        [b"application/second"],
    ]
    other = Offer(one.published, tuple(replace(plan, timeout=2.0) for plan in one.plans), latest=True)
    follow(other)  # an override
    assert app.table.exact[b"/shop.Orders.v1/place"].handler is not both
    assert app.table.labels == {"/shop.Orders.v1/place": 5}
    follow()
    assert app.table.exact == {}
