"""The plain routes over a real listener."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from html.parser import HTMLParser

import httpx
import msgspec
import pytest

from insula.edge.admission import Draining
from insula.edge.app import Application
from insula.edge.exchange import Head, Response, Route
from insula.edge.listener import Listener, bind
from insula.edge.metrics import Metrics
from insula.edge.plain import PLAIN_LABELS, Plain, Sources, Status, Welcome, plain_routes
from insula.edge.routes import RouteTable
from tests.edge.conftest import Nothing


class State:
    ready = ""
    services: tuple[str, ...] = ("shop.Orders.v1",)


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
async def http(state: State) -> AsyncIterator[httpx.AsyncClient]:
    metrics = Metrics()
    sources = Sources(
        welcome=lambda: Welcome(
            "Insula", "1.2", "A server & more", {"/health": "well?", "POST /a.B/c": "call <it>"}, state.services
        ),
        ready=lambda: state.ready,
        status=lambda: Status("1.2", 12.9, 3, 100),
        metrics=metrics,
    )
    app = Application(
        RouteTable(plain_routes(sources)),
        missing=Route(Nothing(), "missing", frozenset()),
        rules=(Draining(PLAIN_LABELS),),  # they answer all the same
        metrics=metrics,
    )
    listener = Listener(app, bind("127.0.0.1", 0))
    metrics.connections = lambda: listener.connections
    await listener.start()
    async with httpx.AsyncClient(base_url=listener.url, trust_env=False, verify=False) as client:
        yield client
    await listener.stop(0)


async def test_a_program_gets_json_and_a_browser_a_page(http: httpx.AsyncClient, state: State) -> None:
    answer = await http.get("/")
    assert answer.json()["services"] == ["shop.Orders.v1"]
    assert answer.json()["links"]["/health"] == "well?"
    state.services = ('<script>alert("x")</script>',)
    page = await http.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert page.headers["vary"].startswith("accept")
    assert "A server &amp; more" in page.text

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "img", "iframe")
            assert tag != "link" or dict(attrs) == {"rel": "icon", "href": "data:,"}
            assert not any(name.startswith("on") or name == "src" for name, _ in attrs)

    Reader().feed(page.text)


async def test_what_was_told_is_not_made_again() -> None:
    """A page is made once a welcome, and a program's answer too: what is asked for often costs no more."""
    now = Welcome("Insula", "1", "x", {}, ("/a", "/b"), more=9998)
    routes = dict(plain_routes(Sources(lambda: now, str, lambda: Status("1", 0, 0, 0), Metrics())))
    browser, program = Head("GET", b"/", b"", [(b"accept", b"text/html")]), Head("GET", b"/", b"", [])
    handler = routes[b"/"].handler
    assert isinstance(handler, Plain)
    answer = handler.prepare(browser)
    shown, told = answer(browser, b""), answer(program, b"")
    assert isinstance(shown, Response)
    assert isinstance(told, Response)
    assert b"9,998 more" in shown.body
    assert msgspec.json.decode(told.body)["more"] == 9998
    assert answer(browser, b"") is shown
    assert answer(program, b"") is told
    now = Welcome("Insula", "1", "x", {}, ("/c",))
    told = answer(program, b"")
    assert isinstance(told, Response)
    assert msgspec.json.decode(told.body)["services"] == ["/c"]


async def test_health(http: httpx.AsyncClient, state: State) -> None:
    answer = await http.get("/health")
    assert set(answer.json()) == {"status", "timestamp"}
    assert answer.json()["status"] == "healthy"
    assert datetime.fromisoformat(answer.json()["timestamp"]).utcoffset() is not None
    assert answer.headers["cache-control"] == "no-store"
    assert (await http.get("/health/ready")).json()["status"] == "ready"
    state.ready = "draining"
    ready = await http.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert (await http.get("/health")).status_code == 200
    api = await http.get("/api/v1/health")
    assert (api.status_code, api.json()["status"]) == (503, "draining")
    state.ready = ""
    api = await http.get("/api/v1/health")
    assert (api.status_code, set(api.json()), api.json()["status"]) == (200, {"status", "time"}, "healthy")


async def test_status(http: httpx.AsyncClient) -> None:
    assert (await http.get("/status")).json() == {
        "version": "1.2",
        "uptime": 12,
        "connections": 3,
        "max_connections": 100,
        "active_sessions": 0,
        "mode": "server",
    }


async def test_metrics(http: httpx.AsyncClient) -> None:
    await http.get("/health")
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'insula_http_requests_total{code="200",route="/health"} 1.0' in answer.text
    assert "insula_connections 1.0" in answer.text


async def test_they_take_nothing_else(http: httpx.AsyncClient) -> None:
    for path in ("/", "/health", "/api/v1/health", "/health/ready", "/status", "/metrics"):
        assert (await http.post(path, content=b"x")).status_code == 405
        assert (await http.head(path)).status_code == 200
