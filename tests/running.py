"""Whole servers for tests: in the test's own loop, or as a process of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from insula.server import Server
from insula.settings import load


class Live:
    """A running server as a client sees it: `public` and `admin` are HTTP clients of its two ports."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = "http://{}:{}".format(*server.address)
        self.admin_url = "http://{}:{}".format(*server.admin_address)
        self.public = httpx.AsyncClient(base_url=self.url, timeout=30)
        self.admin = httpx.AsyncClient(base_url=self.admin_url, timeout=60)

    async def deploy(self, package: Path, **query: Any) -> httpx.Response:
        """Uploads a package."""
        return await self.admin.post(
            "/api/v1/packages/deploy",
            params=query,
            headers={"content-type": "application/gzip"},
            content=package.read_bytes(),
        )

    async def call(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """A Connect call in JSON."""
        return await self.public.post(path, json={} if body is None else body, headers=headers)


@asynccontextmanager
async def running(folder: Path, flags: Mapping[str, Any] | None = None, **options: Any) -> AsyncIterator[Live]:
    """A server with its data below `folder`, on free ports."""
    settings = load(
        flags={"server.port": 0, "server.admin_port": 0, "limits.shutdown_grace_ms": 2000, **(flags or {})},
        environ={},
        cwd=folder,
    )
    server = Server(settings, **options)
    await server.start()
    live = Live(server)
    try:
        yield live
    finally:
        await live.public.aclose()
        await live.admin.aclose()
        await server.stop()


class Process:
    """`insula serve` as a process, its two addresses read from what it prints."""

    def __init__(
        self, folder: Path, *arguments: str, environ: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> None:
        """`wrapper` is a program that becomes the server, with its arguments before the server's."""
        command = [*wrapper, sys.executable, "-m", "insula", "serve", "--port", "0", "--admin-port", "0", *arguments]
        self.log = folder / "serve.log"
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                command,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
                text=True,
            )
        said = ""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            said += line
            if "try" in line:
                break
        found = re.search(r"services\s+(http://\S+)\s+admin\s+(http://\S+)", said)
        assert found, f"the server did not start: {said}{self.log.read_text()}"
        self.url, self.admin_url = found[1], found[2]
        self.said = said

    def deploy(self, package: Path, **query: Any) -> httpx.Response:
        """Uploads a package."""
        headers = {"content-type": "application/gzip"}
        address = f"{self.admin_url}/api/v1/packages/deploy"
        return httpx.post(address, params=query, headers=headers, content=package.read_bytes(), timeout=60)

    def call(self, path: str, body: Any = None) -> httpx.Response:
        """A Connect call in JSON."""
        return httpx.post(f"{self.url}{path}", json={} if body is None else body, timeout=60)

    def end(self, number: int = signal.SIGTERM, timeout: float = 30) -> int:
        """Sends a signal and waits for the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        code = self.popen.wait(timeout)
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        return code


@contextmanager
def process(
    folder: Path, *arguments: str, environ: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
) -> Iterator[Process]:
    """A server process that does not outlive the test."""
    server = Process(folder, *arguments, environ=environ, wrapper=wrapper)
    try:
        yield server
    finally:
        if server.popen.poll() is None:
            server.end(signal.SIGKILL)
