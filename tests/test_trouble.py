"""A whole server in trouble that is not a request's: its folder, its database, its signals, its log."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from insula import examples
from insula.errors import UnavailableError
from insula.storage.deployments import DeploymentRepository
from tests.packing import pack
from tests.running import Process, process, running

SERVE = [sys.executable, "-m", "insula", "serve", "--port", "0", "--admin-port", "0"]
GREETER = examples.find("greeter")
COUNTER = """
@okra(namespace: "test", version: "v1")
service Relay { relay(input: Request): Answer }
type Parameters { key: String }
type Request { api: String! method: String! parameters: Parameters }
type Failure { code: String! }
type Answer { success: Boolean! data: Long error: Failure }
"""


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A package whose only method hands its input to the host."""
    from tests.guests import build_c

    relay = Path(__file__).parent / "services" / "relay.c"
    return pack(tmp_path / "relay.okra.pkg", COUNTER, build_c(relay).read_bytes(), host_apis=["okra.state"])


INCREMENT = {"api": "okra.state", "method": "increment", "parameters": {"key": "n"}}


async def test_what_could_not_be_kept_is_not_acknowledged(tmp_path: Path, counter: Path) -> None:
    """The data folder is removed while the server runs: SQLite would go on writing into the file that is no more."""
    async with running(tmp_path) as live:
        assert (await live.deploy(counter)).status_code == 200
        assert (await live.call("/test.Relay/relay", INCREMENT)).json() == {"success": True, "data": "1"}
        await asyncio.to_thread(shutil.rmtree, live.server.settings.server.data_dir)
        assert (await live.call("/test.Relay/relay", INCREMENT)).json()["success"] is False
        assert GREETER is not None
        refused = await live.deploy(GREETER)
        assert (refused.status_code, refused.json()["reason"]) == (503, "database_gone"), refused.text
        assert str(tmp_path) not in refused.text
        assert len((await live.admin.get("/api/v1/packages")).json()["services"]) == 1


def test_a_disk_that_takes_no_more_costs_no_answer_and_nothing_that_was_kept(tmp_path: Path, counter: Path) -> None:
    """No file may grow any more, by the system's own bound: what a full disk is to whoever writes."""
    assert GREETER is not None
    with process(tmp_path, "--deploy", "greeter") as server:
        assert server.deploy(counter).status_code == 200
        assert server.call("/test.Relay/relay", INCREMENT).json() == {"success": True, "data": "1"}
        before = resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE, (0, before[1]))
        for _ in range(3):
            assert server.call("/test.Relay/relay", INCREMENT).json()["success"] is False
            refused = server.deploy(GREETER, override="true")
            assert refused.status_code == 507, refused.text
            assert server.call("/examples.Greeter/greet", {"name": "x"}).status_code == 200
        gone = httpx.delete(f"{server.admin_url}/api/v1/packages/examples.Greeter.v1")
        assert gone.status_code in (500, 507), gone.text
        for answer in (refused, gone):
            assert str(tmp_path) not in answer.text
        resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE, before)
        assert server.call("/test.Relay/relay", INCREMENT).json() == {"success": True, "data": "2"}
        assert server.deploy(GREETER, override="true").status_code == 200
        assert server.end() == 0
    with process(tmp_path) as server:
        assert server.call("/test.Relay/relay", INCREMENT).json() == {"success": True, "data": "3"}
        assert server.call("/examples.Greeter/greet", {"name": "x"}).status_code == 200


def test_a_start_on_a_full_disk_says_so(tmp_path: Path) -> None:
    with process(tmp_path) as server:
        server.end()
    done = subprocess.run(
        ["sh", "-c", 'ulimit -S -f 16; exec "$@"', "sh", *SERVE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "is there room on its disk?" in done.stderr
    assert "backup" not in done.stderr


def mortal() -> list[str]:
    """What takes from a server the right to write where nobody may; nothing, where it has none."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("this user may write everywhere; setpriv of util-linux takes that from a process")
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", "--bounding-set", rights, "--inh-caps", rights]


def test_a_data_folder_that_may_not_be_written_any_more(tmp_path: Path, counter: Path) -> None:
    """Files that are open stay so; what wants new ones is refused, and nothing leaks of where they were to be."""
    assert GREETER is not None
    data = tmp_path / "insula-data"
    wrapper = mortal()
    with process(tmp_path, "--deploy", "greeter", wrapper=wrapper) as server:
        assert server.deploy(counter).status_code == 200
        modes = {path: path.stat().st_mode for path in (data, *data.rglob("*"))}
        try:
            for path in modes:
                path.chmod(0o555 if path.is_dir() else 0o444)
            refused = server.deploy(GREETER, override="true")
            assert (refused.status_code, refused.json()["code"]) == (500, "internal"), refused.text
            assert str(tmp_path) not in refused.text
            assert server.call("/examples.Greeter/greet", {"name": "x"}).status_code == 200
            assert server.call("/test.Relay/relay", INCREMENT).status_code == 200
            assert server.end() == 0
            done = subprocess.run([*wrapper, *SERVE], cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert (done.returncode, "Traceback" in done.stderr) == (2, False)
            assert "must be a folder that the server's user may write" in done.stderr
        finally:
            for path, mode in modes.items():
                if path.exists():
                    path.chmod(mode)
    with process(tmp_path, wrapper=wrapper) as server:
        assert server.call("/examples.Greeter/greet", {"name": "x"}).status_code == 200
        assert server.end() == 0


async def test_the_wrong_database_costs_no_package(tmp_path: Path) -> None:
    """A start with another, empty database sweeps nothing that the right one still names."""
    async with running(tmp_path, deploy=["greeter"]):
        pass
    async with running(tmp_path, {"storage.url": f"sqlite:///{tmp_path}/other.db"}) as live:
        assert (await live.admin.get("/api/v1/packages")).json() == {"services": []}
    async with running(tmp_path) as live:
        assert (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 200


async def test_a_change_that_was_not_acknowledged_blocks_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was lost while the change was committed: it may have been made, and here it was."""
    assert GREETER is not None
    put, remove = DeploymentRepository.put, DeploymentRepository.remove
    lose = True

    async def lossy(repository: DeploymentRepository, *args: Any, **options: Any) -> Any:
        done = await (put if len(args) + len(options) > 2 else remove)(repository, *args, **options)
        if lose:
            raise UnavailableError("the connection was lost", reason="outcome_unknown")
        return done

    monkeypatch.setattr(DeploymentRepository, "put", lossy)
    monkeypatch.setattr(DeploymentRepository, "remove", lossy)
    async with running(tmp_path) as live:
        assert (await live.deploy(GREETER)).status_code == 503
        lose = False
        again = await live.deploy(GREETER, override="true")
        assert again.status_code == 200, again.text
        lose = True
        assert (await live.admin.delete("/api/v1/packages/examples.Greeter.v1")).status_code == 503
        lose = False
        assert (await live.admin.delete("/api/v1/packages/examples.Greeter.v1")).status_code == 404
        assert (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 404
        assert (await live.deploy(GREETER)).status_code == 200


def test_a_database_that_is_damaged_is_called_so(tmp_path: Path) -> None:
    with process(tmp_path) as server:
        server.end()
    file = tmp_path / "insula-data" / "insula.db"
    with sqlite3.connect(file) as database:
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with file.open("r+b") as out:
        out.seek(size // 2)
        out.write(random.Random(7).randbytes(file.stat().st_size - size // 2))
    done = subprocess.run(
        [sys.executable, "-m", "insula", "serve", "--port", "0", "--admin-port", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "backup" in done.stderr
    assert "create tables" not in done.stderr


def test_a_service_that_does_not_start_hides_no_address(tmp_path: Path) -> None:
    with process(tmp_path, "--deploy", "greeter") as server:
        server.end()
    for module in (tmp_path / "insula-data" / "depot").glob("*/service.wasm"):
        module.write_bytes(module.read_bytes() + b"\0")
    with process(tmp_path) as server:  # reads the addresses
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert server.end() == 0


def test_the_end_of_its_terminal_ends_it_in_order(tmp_path: Path) -> None:
    with process(tmp_path, "--deploy", "greeter") as server:
        server.popen.send_signal(signal.SIGHUP)
        assert server.end(signal.SIGHUP) == 0
        assert "stopped" in server.log.read_text()


def test_a_signal_that_others_reopen_their_log_by_ends_nothing(tmp_path: Path) -> None:
    with process(tmp_path, "--deploy", "greeter") as server:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            server.popen.send_signal(number)
            while f"nothing is done for signal {number}" not in server.log.read_text():
                assert server.popen.poll() is None
        assert server.call("/examples.Greeter/greet", {"name": "x"}).status_code == 200
        assert server.end() == 0


def test_under_nohup_it_outlives_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # is inherited
    try:
        server = Process(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        server.popen.send_signal(signal.SIGHUP)
        assert httpx.get(f"{server.url}/health").status_code == 200
    finally:
        assert server.end() == 0


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_it_runs_without_its_standard_files(tmp_path: Path, closed: str) -> None:
    """What comes next gets none of their numbers: standard error leads nowhere, and not into a socket."""
    (tmp_path / "c.toml").write_text('[logging]\nfile = "x.log"\n' if "0" in closed else "")
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *SERVE, "--config", "c.toml"]
    with subprocess.Popen(command, cwd=tmp_path) as server:
        try:
            while not (ports := [one.laddr.port for one in listening(server.pid)]) or len(ports) < 2:
                assert server.poll() is None
            assert {answers(port) for port in ports} == {200}
            if sys.platform == "linux":
                assert os.readlink(f"/proc/{server.pid}/fd/2") == os.devnull
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
        finally:
            server.kill()


def listening(pid: int) -> list[Any]:
    return [one for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]


def answers(port: int) -> int:
    path = "/api/v1/health"
    code = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30).status_code
    return httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code if code == 404 else code


def test_an_interrupt_during_the_start_is_no_traceback(tmp_path: Path) -> None:
    """The moment is made by a module that Python imports with the command line."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "insula", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_the_bound_on_open_files_is_raised_to_what_its_connections_need(tmp_path: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 8192:
        pytest.skip("the system lets this user open fewer files")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))  # is inherited
    try:
        server = Process(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    try:
        soft, _ = resource.prlimit(server.popen.pid, resource.RLIMIT_NOFILE)
        assert soft > 4096
    finally:
        assert server.end() == 0


async def test_a_client_that_leaves_before_its_deploy_is_whole_is_no_failure_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as live:
        host, port = live.server.admin_address
        for kind in ("application/json", "application/gzip"):
            reader, writer = await asyncio.open_connection(host, port)
            head = f"POST /api/v1/packages/deploy HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {kind}\r\n"
            writer.write(head.encode() + b"content-length: 100\r\nexpect: 100-continue\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 100")  # the body is being read
            writer.write(b'{"sou')
            writer.close()
        assert (await live.admin.get("/api/v1/packages")).status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_module_that_asks_for_more_than_an_instance_may_have_is_a_bad_package(tmp_path: Path) -> None:
    import wasmtime

    okra = (
        '(memory (export "memory") 1) (func (export "allocate") (param i32) (result i32) i32.const 8)'
        '(func (export "deallocate") (param i32))'
        '(func (export "handle_request") (param i32 i32 i32 i32) (result i64) i64.const 0)'
    )
    for number, more in enumerate(("(table 10000000 funcref)", "(table 1 funcref)" * 50)):
        wasm = bytes(await asyncio.to_thread(wasmtime.wat2wasm, f"(module {okra} {more})"))
        async with running(tmp_path) as live:
            answer = await live.deploy(pack(tmp_path / f"{number}.okra.pkg", COUNTER, wasm))
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument"), answer.text


# Guests that wait: one thread runs them all here


RELAY = """
@okra(namespace: "test", version: "v1")
service {name} {{ relay(input: Request): Answer }}
type Sleep {{ milliseconds: Long }}
type Call {{ api: String method: String parameters: Sleep }}
type Parameters {{ service: String method: String input: Call milliseconds: Long }}
type Request {{ api: String! method: String! parameters: Parameters }}
type Answer {{ success: Boolean! }}
"""


def relay_named(folder: Path, name: str, timeout_ms: int = 5000) -> Path:
    from tests.guests import build_c

    return pack(
        folder / f"{name}.okra.pkg",
        RELAY.format(name=name),
        build_c(Path(__file__).parent / "services" / "relay.c").read_bytes(),
        host_apis=["okra.call", "okra.time"],
        limits={"timeout_ms": timeout_ms},
    )


def sleep(milliseconds: int) -> dict[str, Any]:
    return {"api": "okra.time", "method": "sleep", "parameters": {"milliseconds": milliseconds}}


async def test_services_that_wait_for_each_other_do_not_lock_each_other_out(tmp_path: Path) -> None:
    """More calls at once than there are threads or instances, each of which waits for another service."""
    async with running(tmp_path, {"limits.worker_threads": 1}) as live:
        for name in ("A", "B"):
            assert (await live.deploy(relay_named(tmp_path, name))).status_code == 200
        asked = {"service": "test.B", "method": "relay", "input": sleep(1)}
        request = {"api": "okra.call", "method": "invoke", "parameters": asked}
        answers = await asyncio.gather(*(live.call("/test.A/relay", request) for _ in range(20)))
        assert {answer.text for answer in answers} == {'{"success":true}'}


async def test_guests_that_sleep_in_the_host_hold_nobody_up_and_end_in_time(tmp_path: Path) -> None:
    async with running(tmp_path, {"limits.worker_threads": 1}, deploy=["greeter"]) as live:
        assert (await live.deploy(relay_named(tmp_path, "A", timeout_ms=1000))).status_code == 200
        sleepers = [asyncio.create_task(live.call("/test.A/relay", sleep(600_000))) for _ in range(8)]
        answered = 0
        while not all(sleeper.done() for sleeper in sleepers):
            answered += (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 200
        assert answered > 8  # one thread, held by none of them
        for sleeper in sleepers:  # where the guest lives to see the deadline, it says so itself
            answer = sleeper.result()
            assert answer.status_code == 504 or answer.json()["success"] is False, answer.text
        assert (await live.call("/test.A/relay", sleep(1))).json()["success"] is True
