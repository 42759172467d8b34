"""A real HTTP server for the command line: the admin API over deployments in memory, and a small Connect service."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from insula.api.admin import admin_application
from insula.api.parts import AdminParts
from insula.cli.main import main
from tests.api.deployments_in_memory import DeploymentsInMemory

TOKEN = "r4nd0m"


@dataclass
class Running:
    """Both ports of a server, and what came in on the public one."""

    admin: str
    public: str
    deployments: DeploymentsInMemory
    seen: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


async def connect(scope: Any, receive: Any, send: Any, seen: list[dict[str, Any]]) -> None:
    """Answers any method with its input, and the method `fail` with an error."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    seen.append({"path": scope["path"], "headers": headers, "body": body})
    status, answer = 200, body
    if scope["path"].endswith("/fail"):
        status, answer = (
            404,
            b'{"code": "not_found", "message": "no such order\\u001b[2J", "details": [{"type": "shop.X"}]}',
        )
    elif scope["path"].endswith("/html"):
        status, answer = 502, b"<html>"
    elif scope["path"].endswith("/slow"):
        await asyncio.sleep(30)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    deployments = DeploymentsInMemory()
    seen: list[dict[str, Any]] = []
    parts = AdminParts(deployments=deployments, version="1", max_bytes=1 << 20, read_timeout=5.0)

    async def public(scope: Any, receive: Any, send: Any) -> None:
        await connect(scope, receive, send, seen)

    servers, threads, urls = [], [], []
    for app in (admin_application(parts, token=TOKEN), public):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        servers.append(server)
        threads.append(thread)
        urls.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
    yield Running(urls[0], urls[1], deployments, seen)
    for server in servers:
        server.should_exit = True
    for thread in threads:
        thread.join(10)


@pytest.fixture
def insula(
    running: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ended]:
    """Runs one command line in an empty folder, against the running server."""
    running.deployments.services.clear()
    running.seen.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSULA_ADMIN_URL", running.admin)
    monkeypatch.setenv("INSULA_URL", running.public)
    monkeypatch.setenv("INSULA_ADMIN__TOKEN", TOKEN)

    def run(*words: str) -> Ended:
        code = main(list(words))
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run
