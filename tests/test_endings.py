"""A whole server that is told to end while it deploys, drains, or is under load."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.packages.web import serving
from tests.packing import hostile, pack
from tests.running import Process, process
from tests.wasm.test_modules import section, slow_module

IDL = """
@okra(namespace: "test", version: "v1")
service Slow { go(input: Text): Text }
type Text { text: String! }
"""


@pytest.fixture
def config(tmp_path: Path) -> tuple[str, ...]:
    """Flags of a server that may fetch from this machine, and gives requests under way a fifth of a second."""
    file = tmp_path / "endings.toml"
    file.write_text("[sources]\nallow_http = true\nallow_private = true\n[limits]\nshutdown_grace_ms = 200\n")
    return ("--config", str(file))


def started(call: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
    """A call in a thread of its own."""
    threads = ThreadPoolExecutor(1)
    try:
        return threads.submit(call, *args, **options)
    finally:
        threads.shutdown(wait=False)


def calls_begun(server: Process, service: str) -> int:
    page = httpx.get(f"{server.url}/metrics").text
    lines = [line for line in page.splitlines() if line.startswith(f'insula_calls_total{{service="{service}"}}')]
    return int(float(lines[0].split()[1])) if lines else 0


def compilers(server: Process) -> list[psutil.Process]:
    """The processes that compile for a server."""
    found = []
    for child in psutil.Process(server.popen.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "insula.wasm.compile" in child.cmdline():
                found.append(child)
    return found


def test_a_deploy_that_the_stop_cuts_off_gets_a_whole_answer(tmp_path: Path, config: tuple[str, ...]) -> None:
    """Its package is still on the way, from a server that takes its time."""
    release = threading.Event()
    with serving() as web, process(tmp_path, *config, "--deploy", "greeter") as server:
        web.answers["/slow"] = lambda request: (release.wait(60), None)[1]
        try:
            address = f"{server.admin_url}/api/v1/packages/deploy"
            asked = started(httpx.post, address, json={"source": web.url("/slow")}, timeout=60)
            while not web.seen:
                pass
            server.popen.send_signal(signal.SIGTERM)
            answer = asked.result(60)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), answer.text
            assert "insula list" in answer.json()["hint"]
            assert server.end() == 0
        finally:
            release.set()
    assert "Traceback" not in server.log.read_text()
    with process(tmp_path) as server:
        listed = httpx.get(f"{server.admin_url}/api/v1/packages").json()["services"]
        assert [one["id"] for one in listed] == ["examples.Greeter.v1"]


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_no_compilation_outlives_the_server(tmp_path: Path, config: tuple[str, ...], twice: bool) -> None:
    ballast = section(0, b"\x01x" + random.Random(1).randbytes(500_000))  # a package may not pack too tightly
    wasm = slow_module(4000, 400).read_bytes()
    package = pack(tmp_path / "slow.okra.pkg", IDL, wasm[:8] + ballast + wasm[8:])
    with process(tmp_path, *config, "--deploy", "greeter") as server:
        asked = started(server.deploy, package)
        compiling: list[psutil.Process] = []
        while not compiling:
            assert not asked.done(), asked.result().text
            compiling = compilers(server)
        server.popen.send_signal(signal.SIGTERM)
        if twice:
            while "stopping" not in server.log.read_text():
                pass
        assert server.end(signal.SIGTERM if twice else 0) == 0
        _, alive = psutil.wait_procs(compiling, timeout=30)
        assert alive == []
        if twice:
            with pytest.raises(httpx.TransportError):
                asked.result(60)
        else:
            assert asked.result(60).status_code == 503
    with process(tmp_path) as server:
        assert server.call("/examples.Greeter/greet", {"name": "x"}).status_code == 200
        assert server.end() == 0
    modules = tmp_path / "insula-data" / "modules"
    assert len([path for path in modules.iterdir() if path.suffix == ".cwasm"]) == 1


def test_a_stop_under_load_while_it_deploys_loses_no_answer_and_no_deployment(tmp_path: Path) -> None:
    packages = [hostile(tmp_path / f"{n}.okra.pkg", limits={"timeout_ms": 4000 + n}) for n in range(2)]
    server = Process(tmp_path)
    try:
        assert server.deploy(packages[0]).status_code == 200
        acknowledged: list[str] = []
        answers: list[int] = []

        def load() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while True:
                    try:
                        answers.append(client.post("/test.Hostile/echo", json={"text": "x"}).status_code)
                    except httpx.ConnectError:
                        return  # the listener is closed
                    if answers[-1] != 200:
                        return

        def change() -> None:
            number = 0
            while True:
                number += 1
                try:
                    answer = server.deploy(packages[number % 2], override="true")
                except httpx.TransportError:
                    return
                if answer.status_code != 200:
                    assert answer.status_code == 503, answer.text
                    return
                acknowledged.append(answer.json()["digest"])

        workers = [started(load) for _ in range(4)] + [started(change)]
        while len(acknowledged) < 3:
            pass
        assert server.end() == 0
        for worker in workers:
            worker.result(60)
        assert set(answers) <= {200, 503}
        assert "Traceback" not in server.log.read_text()
    finally:
        server.end(signal.SIGKILL)
    with process(tmp_path) as server:
        shown = httpx.get(f"{server.admin_url}/api/v1/packages/test.Hostile.v1").json()
        assert shown["state"] == "ready"
        assert acknowledged[-1] in (shown["digest"], *shown["previous"][:1])
        assert server.call("/test.Hostile/echo", {"text": "again"}).json()["text"] == "again"
        assert server.end() == 0


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_a_stop_while_a_replaced_service_drains(tmp_path: Path, twice: bool) -> None:
    """Its last call has its time; a second signal takes that away."""
    packages = [
        hostile(tmp_path / f"{n}.okra.pkg", limits={"timeout_ms": (60_000 if twice else 3000) + n}) for n in range(2)
    ]
    with process(tmp_path, "--deploy", str(packages[0])) as server:
        slow = started(server.call, "/test.Hostile/loop")
        while not calls_begun(server, "test.Hostile.v1"):
            pass
        assert server.deploy(packages[1], override="true").status_code == 200
        assert server.call("/test.Hostile/echo", {"text": "new"}).json()["text"] == "new"
        server.popen.send_signal(signal.SIGTERM)
        if twice:
            while "stopping" not in server.log.read_text():
                pass
            assert server.end(signal.SIGTERM, timeout=10) == 0
            with pytest.raises(httpx.TransportError):
                slow.result(60)
        else:
            assert slow.result(60).json()["code"] == "deadline_exceeded"
            assert server.end(0) == 0
