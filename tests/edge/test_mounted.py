"""A real FastAPI application as what every path leads to, with the rules and the errors of the admin port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from insula.api.errors import refuse
from insula.edge.app import Application
from insula.edge.asgi import App, Receive, Scope, Send
from insula.edge.exchange import Asgi, Route
from insula.edge.listener import Listener, bind
from insula.edge.local import Token, from_this_machine
from insula.edge.routes import RouteTable
from insula.errors import CallerError, InsulaError


def _fastapi() -> FastAPI:
    app = FastAPI()

    @app.exception_handler(InsulaError)
    async def refused(request: Request, error: InsulaError) -> Response:
        return JSONResponse({"code": error.code.value}, error.http_status)

    @app.get("/api/v1/health")
    async def health() -> dict[str, str]:
        return {"status": "healthy"}

    @app.post("/upload")
    async def upload(request: Request) -> dict[str, int]:
        return {"size": sum([len(piece) async for piece in request.stream()])}

    @app.get("/own-id")
    async def own() -> Response:
        return Response(headers={"x-request-id": "theirs"})

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a secret")

    return app


def _inner(waiting: asyncio.Event) -> App:
    fastapi = _fastapi()

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/refuse":
            raise CallerError("no", hint="never", reason="because")
        if scope["path"] == "/wait":
            task = asyncio.current_task()
            assert task is not None
            task.set_name("waits")
            waiting.set()
            await asyncio.Event().wait()
        if scope["path"] == "/raise":
            raise RuntimeError("a secret")
        if scope["path"] == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise RuntimeError("a secret")
        await fastapi(scope, receive, send)

    return inner


@asynccontextmanager
async def admin(token: str = "", waiting: asyncio.Event | None = None) -> AsyncIterator[httpx.AsyncClient]:
    sock = bind("127.0.0.1", 0)
    asgi = Asgi(_inner(waiting or asyncio.Event()), refuse)
    route = Route(asgi, "/", frozenset(), max_body=1000, bound="packages.max_bytes")
    rule = Token(token, frozenset((b"/api/v1/health",))) if token else from_this_machine
    listener = Listener(Application(RouteTable((), [(b"/", route)]), missing=route, rules=(rule,)), sock)
    await listener.start()
    async with httpx.AsyncClient(base_url=listener.url, trust_env=False, verify=False) as http:
        yield http
    await listener.stop(0)


async def test_without_a_token_this_machine_may_and_a_page_may_not() -> None:
    async with admin() as http:
        assert (await http.get("/api/v1/health")).json() == {"status": "healthy"}
        for headers in (
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"host": "evil.example"},
            {"sec-fetch-site": "cross-site"},
        ):
            for method, path in (("GET", "/api/v1/health"), ("POST", "/upload")):
                answer = await http.request(method, path, headers=headers)
                assert answer.status_code == 403
                assert set(answer.json()) == {"error", "code", "message", "hint", "reason"}
                assert answer.json()["error"] == answer.json()["message"]


async def test_a_token_is_asked_for_everywhere_but_at_health() -> None:
    async with admin("the-token") as http:
        assert (await http.get("/api/v1/health", headers={"host": "any.example"})).status_code == 200
        answer = await http.post("/upload")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="insula admin"')
        assert "the-token" not in answer.text
        for path in ("/api/v1/health/", "/api/v1/health/../upload", "/openapi.json", "//api/v1/health"):
            assert (await http.get(path)).status_code == 401
        http.headers["authorization"] = "Bearer the-token"
        assert (await http.post("/upload", content=b"abc")).json() == {"size": 3}


async def test_a_body_is_bounded_by_its_length_and_by_what_comes() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    async with admin() as http:
        for body in (b"x" * 1001, pieces()):
            answer = await http.post("/upload", content=body)
            assert (answer.status_code, answer.json()["code"]) == (413, "resource_exhausted")
            if isinstance(body, bytes):  # what comes piece by piece, the inner application tells
                assert "packages.max_bytes allows, 1000 bytes" in answer.json()["message"]
        assert (await http.post("/upload", content=b"x" * 1000)).json() == {"size": 1000}


async def test_what_goes_wrong_inside_is_a_whole_answer(caplog: pytest.LogCaptureFixture) -> None:
    async with admin() as http:
        answer = await http.get("/refuse")
        assert (answer.status_code, answer.json()["reason"], answer.json()["hint"]) == (400, "because", "never")
        answer = await http.get("/raise", headers={"x-request-id": "find-me"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (500, "find-me")
        assert "secret" not in answer.text
        assert "find-me" in caplog.text
        answer = await http.get("/broken")
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/half")


async def test_a_request_that_the_stop_cuts_off_gets_a_whole_answer(caplog: pytest.LogCaptureFixture) -> None:
    waiting = asyncio.Event()
    async with admin(waiting=waiting) as http:
        asked = asyncio.create_task(http.get("/wait"))
        await waiting.wait()
        [cut_off] = [task for task in asyncio.all_tasks() if task.get_name() == "waits"]
        cut_off.cancel("the server stops")
        answer = await asked
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "unavailable", "1")
    assert "Traceback" not in caplog.text


async def test_there_is_one_request_id() -> None:
    async with admin() as http:
        answer = await http.get("/own-id", headers={"x-request-id": "mine"})
        assert answer.headers.get_list("x-request-id") == ["mine"]
