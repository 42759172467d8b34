"""A route to an ASGI application: admitted, bounded, marked and counted as every other; whole answers where it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from insula.edge.admission import Draining, Verdict
from insula.edge.asgi import Receive, Scope, Send
from insula.edge.exchange import Asgi, Head, Route
from insula.edge.limits import ConnectionLimits
from insula.edge.rest import refusal
from insula.edge.routes import RouteTable
from insula.errors import CallerError
from tests.edge.conftest import ROADS, Street, street, until

pytestmark = ROADS


class App:
    """Does what the query says."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.waits = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        what = scope["query_string"]
        if what == b"refuse":
            raise CallerError("no", reason="because")
        if what == b"raise":
            raise RuntimeError("a secret")
        if what == b"nothing":
            return
        if what == b"wait":
            self.task = asyncio.current_task()
            self.waits.set()
            await asyncio.Event().wait()
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        headers = [(b"content-type", b"text/event-stream"), (b"X-Request-Id", b"theirs")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % size, "more_body": True})
        if what == b"half":
            raise RuntimeError("a secret")
        await send({"type": "http.response.body", "body": b"data: end\n\n"})


class Adds:
    def concerns(self, route: Route) -> bool:
        return True

    def __call__(self, head: Head, _: Route) -> Verdict:
        head.fields = ((b"ratelimit", b"9"),)
        return None


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def here(app: App) -> AsyncIterator[Street]:
    async with street(ConnectionLimits()) as found:
        route = Route(Asgi(app, refusal), "/s", frozenset(("GET", "POST")), max_body=1000, bound="packages.max_bytes")
        found.app.table = RouteTable([(b"/s", route)])
        found.app.rules = (Adds(),)
        yield found


@pytest.fixture
async def http(here: Street) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=here.listener.url, trust_env=False, verify=False) as client:
        yield client


async def test_an_answer_is_marked_and_counted(here: Street, http: httpx.AsyncClient, app: App) -> None:
    answer = await http.post("/s", content=b"abc", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.text) == (200, "data: 3\n\ndata: end\n\n")
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert answer.headers["ratelimit"] == "9"
    assert app.scopes[0]["insula.head"].request_id == "mine"
    bare = await http.head("/s")
    assert (bare.status_code, bare.content) == (200, b"")
    stats = here.app.metrics.routes["/s"]
    await until(lambda: sum(stats.by_status().values()) == 2)
    assert (stats.bytes_in, stats.bytes_out) == (3, 40)


async def test_what_is_refused_never_reaches_it(here: Street, http: httpx.AsyncClient, app: App) -> None:
    answer = await http.put("/s")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert (await http.options("/s")).status_code == 204
    answer = await http.post("/s", content=b"x" * 1001)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "max_bytes")
    here.app.rules = (*here.app.rules, Draining())
    answer = await http.get("/s")
    assert (answer.status_code, answer.headers["ratelimit"]) == (503, "9")
    assert app.scopes == []


async def test_a_body_without_a_length_is_bounded_as_it_comes(http: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    assert (await http.post("/s", content=pieces())).status_code == 413


async def test_what_goes_wrong_is_a_whole_answer(http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = await http.get("/s?refuse")
    assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "because")
    for query in ("raise", "nothing"):
        answer = await http.get(f"/s?{query}", headers={"x-request-id": "find-me"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (500, "find-me")
        assert "secret" not in answer.text
    assert "find-me" in caplog.text
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get("/s?half")


async def test_a_request_that_the_stop_cuts_off_gets_a_whole_answer(http: httpx.AsyncClient, app: App) -> None:
    asked = asyncio.create_task(http.get("/s?wait"))
    await app.waits.wait()
    assert app.task is not None
    app.task.cancel("the server stops")
    answer = await asked
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
