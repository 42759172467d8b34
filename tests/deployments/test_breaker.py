"""Processes that die while they start: who is to blame is found in three more starts, and all others answer."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.packing import hostile
from tests.running import process

KILLER = "test.Hostile.v2"


class Dying:
    """A process of `dying.py`."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-m", "tests.deployments.dying", str(folder), *words]
        with (folder / "dying.log").open("ab") as log:
            self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.staged: list[str] = []
        self.url = self.admin_url = ""

    def read(self, until: Callable[[str], bool] = lambda line: line == "ready") -> str:
        """Reads what it says up to a line; "" where it ended first."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            word, *rest = line.split()
            if word == "staging":
                name, self.url, self.admin_url = rest
                self.staged.append(name)
            if until(line.strip()):
                return line
        return ""

    def go_on(self) -> None:
        """Ends the hold of a staging."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.popen.wait(30)
        for stream in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]
        return code

    def admin(self, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, f"{self.admin_url}/api/v1/packages{path}", timeout=60, **more)

    def services(self) -> dict[str, Any]:
        return {one["id"]: one for one in self.admin("GET", "").json()["services"]}

    def states(self) -> dict[str, str]:
        return {name: one["state"] for name, one in self.services().items()}

    def echo(self, version: str) -> int:
        return httpx.post(f"{self.url}/test.Hostile.{version}/echo", json={"text": "x"}, timeout=60).status_code


@contextmanager
def dying(folder: Path, *words: str) -> Iterator[Dying]:
    process = Dying(folder, *words)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.end(signal.SIGKILL)


def deployed(folder: Path) -> None:
    """A data folder with six services, whose processes ended in order."""
    with process(folder) as server:
        for number in range(1, 7):
            version = f"v{number}"
            assert server.deploy(hostile(folder / f"{version}.okra.pkg", version=version)).status_code == 200
        server.end()


def test_a_deployment_that_ends_the_process_is_found_and_stopped(tmp_path: Path) -> None:
    deployed(tmp_path)
    for _ in range(2):  # four are staged at once, and one of them is to blame
        with dying(tmp_path, f"die={KILLER}") as server:
            assert server.read() == ""
            assert server.wait() == -signal.SIGKILL
    with dying(tmp_path, f"die={KILLER}", f"hold={KILLER}") as server:
        assert server.read(lambda line: KILLER in line), "it is tried, after all others"
        assert server.staged.index(KILLER) >= 2, "those that had no part in a death come first"
        assert server.states()[KILLER] == "starting"
        assert (server.echo("v5"), server.echo("v6")) == (200, 200), "they answer while it is tried"
        server.go_on()
        assert server.wait() == -signal.SIGKILL
    for _ in range(2):
        with dying(tmp_path, f"die={KILLER}") as server:
            assert server.read(), "the server is up"
            assert KILLER not in server.staged
            listed = server.services()
            assert {one["state"] for name, one in listed.items() if name != KILLER} == {"ready"}
            assert listed[KILLER]["state"] == "stopped"
            assert "ended 3 times" in listed[KILLER]["last_error"]
            assert f"insula retry {KILLER}" in listed[KILLER]["last_error"]
            assert server.admin("GET", f"/{KILLER}").json()["last_error"] == listed[KILLER]["last_error"]
            assert (server.echo("v2"), server.echo("v1")) == (503, 200)
            server.end()
    with dying(tmp_path, f"die={KILLER}") as server:
        assert server.read()
        with contextlib.suppress(httpx.HTTPError):  # it dies of the retry
            server.admin("POST", f"/{KILLER}/retry")
        assert server.wait() == -signal.SIGKILL
    with dying(tmp_path) as server:  # mended: but it is not tried before somebody asks
        assert server.read()
        assert server.services()[KILLER]["state"] == "stopped"
        done = server.admin("POST", f"/{KILLER}/retry")
        assert (done.status_code, done.json()["status"]) == (200, "started")
        assert server.echo("v2") == 200
        server.end()
    with dying(tmp_path) as server:
        assert server.read()
        assert set(server.states().values()) == {"ready"}, "the count is cleared"
        server.end()


def test_the_admin_port_is_open_before_anything_is_staged(tmp_path: Path) -> None:
    deployed(tmp_path)
    with dying(tmp_path, f"hold={KILLER}") as server:
        assert server.read(lambda line: KILLER in line)
        ready = httpx.get(f"{server.url}/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "starting")
        assert httpx.get(f"{server.url}/health").status_code == 200
        called = httpx.post(f"{server.url}/test.Hostile/echo", json={})
        assert (called.status_code, called.json()["code"]) == (503, "unavailable")
        assert "the server is starting" in called.json()["message"]
        assert httpx.get(f"{server.url}/nothing").status_code == 503
        health = httpx.get(f"{server.admin_url}/api/v1/health")
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        package = (tmp_path / "v1.okra.pkg").read_bytes()
        refused = server.admin(
            "POST", "/deploy?override=true", headers={"content-type": "application/gzip"}, content=package
        )
        assert (refused.status_code, refused.json()["reason"]) == (503, "starting")
        assert "retry-after" in refused.headers
        assert server.states()[KILLER] == "starting"
        assert server.admin("DELETE", f"/{KILLER}").status_code == 204
        assert server.read(), "the start goes on without it"
        assert set(server.states()) == {f"test.Hostile.v{number}" for number in (1, 3, 4, 5, 6)}
        assert httpx.get(f"{server.url}/health/ready").status_code == 200
        assert httpx.get(f"{server.url}/nothing").status_code == 404
        server.go_on()
        server.end()


def test_an_orderly_stop_of_a_start_is_no_death(tmp_path: Path) -> None:
    deployed(tmp_path)
    for _ in range(3):
        with dying(tmp_path, f"hold={KILLER}") as server:
            assert server.read(lambda line: KILLER in line)
            server.popen.send_signal(signal.SIGTERM)
            server.go_on()  # the thread that reads stdin
            assert server.wait() == 0
    with dying(tmp_path) as server:
        assert server.read()
        assert set(server.states().values()) == {"ready"}
        server.end()


def test_kills_at_any_moment_of_a_start_never_keep_a_sound_service_down_for_long(tmp_path: Path) -> None:
    """Two kills change nothing but the order; whatever three or more did, a retry brings back."""
    deployed(tmp_path)
    chance = random.Random(11)
    for round_ in range(12):
        with dying(tmp_path) as server:
            timer = threading.Timer(chance.uniform(0.2, 0.8), server.popen.kill)
            timer.start()
            server.read()
            timer.cancel()
            server.popen.kill()
            server.wait()
        if round_ % 2:
            continue
        with dying(tmp_path) as server:
            assert server.read(), "a start that nobody kills comes up"
            server.end(signal.SIGKILL)
    with dying(tmp_path) as server:
        assert server.read()
        for name, state in server.states().items():
            if state == "stopped":
                assert server.admin("POST", f"/{name}/retry").status_code == 200
        assert set(server.states().values()) == {"ready"}
        server.end()
