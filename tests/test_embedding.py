"""The public port inside a server of somebody else's: what docs/embedding.md shows, with real clients."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from insula import Server, load
from insula.errors import ConfigurationError
from tests.markdown import Document

DOCUMENT = Document(Path(__file__).parent.parent / "docs" / "embedding.md")
PROGRAMS = [block.text for block in DOCUMENT.blocks if block.language == "python"]


@contextmanager
def served(program: str, folder: Path, *options: str) -> Iterator[str]:
    """The address of a program's `app` under uvicorn."""
    (folder / "shop.py").write_text(program)
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", "0", *options]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                break
        else:
            raise AssertionError("".join(said))
        try:
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=30)
    assert "Traceback" not in rest, rest
    assert "Application shutdown complete" in rest


def checked(url: str) -> None:
    """A service, a plain route, an error and a large answer below the address."""
    with httpx.Client(base_url=url) as http:
        answer = http.post("/examples.Greeter/greet", json={"name": "you"})
        assert (answer.status_code, answer.json()["message"]) == (200, "Hello, you!")
        assert http.get("/health").json()["status"] == "healthy"
        missing = http.post("/shop.Missing/call", json={})
        assert (missing.status_code, missing.headers["x-request-id"] != "") == (404, True)
        wrong = http.post("/examples.Greeter/greet", content=b"{", headers={"content-type": "application/json"})
        assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_argument")


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_the_programs_of_the_document_serve(number: int, tmp_path: Path) -> None:
    program = PROGRAMS[number]
    with served(program, tmp_path) as url:
        checked(url + ("/services" if "/services" in program else ""))
        if "def home" in program:
            assert httpx.get(url).json() == {"greet": "POST /services/examples.Greeter/greet"}


@pytest.mark.parametrize("number", [0, 1])
def test_a_prefix_that_a_proxy_takes_off(number: int, tmp_path: Path) -> None:
    """uvicorn is told of the prefix, and adds it to each path."""
    program = PROGRAMS[number]
    with served(program, tmp_path, "--root-path", "/shop") as url:
        checked(url + ("/services" if "/services" in program else ""))


async def test_a_mounted_application_says_what_it_needs(tmp_path: Path) -> None:
    app: Any = Server(load(environ={}, cwd=tmp_path)).app()
    with pytest.raises(RuntimeError, match=r"server\.lifespan"):
        await app({"type": "http"}, None, None)


async def test_a_lifespan_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = Server(load(environ={}, cwd=tmp_path, flags={"storage.url": f"sqlite:///{tmp_path}/missing/x.db"}))
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        async with server.lifespan():
            pass


async def test_a_lifespan_may_come_again(tmp_path: Path) -> None:
    server = Server(load(environ={}, cwd=tmp_path), deploy=["greeter"])
    app: Any = server.app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        for _ in range(2):
            async with server.lifespan():
                answer = await http.post("/examples.Greeter/greet", json={"name": "you"})
                assert answer.json()["message"] == "Hello, you!"
            with pytest.raises(RuntimeError, match="not started"):
                await http.get("/health")
