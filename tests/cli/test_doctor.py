"""`insula doctor`: one line for each thing, and what to do where it is not right."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from insula.cli import checks
from insula.cli.checks import State
from insula.settings import load
from tests.cli.conftest import Ended, Running

Run = Callable[..., Ended]


def test_a_machine_in_order_has_nothing_to_fix(insula: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSULA_SERVER__PORT", "0")
    monkeypatch.setenv("INSULA_SERVER__ADMIN_PORT", "0")
    monkeypatch.setattr(checks, "MIN_DISK", 0)
    done = insula("doctor")
    assert done.code == 0, done.out
    for name in (
        "python",
        "wasmtime",
        "C compiler",
        "Go compiler",
        "settings",
        "public port",
        "data folder",
        "database",
    ):
        assert any(line[6:].startswith(name) for line in done.out.splitlines()), name


def test_a_taken_port_is_named_with_the_option_that_changes_it(insula: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("INSULA_SERVER__PORT", str(port))
        monkeypatch.setattr(checks, "_insula_answers", lambda host, port: False)
        done = insula("doctor", "--json")
    assert done.code == 1
    (finding,) = [one for one in done.json()["findings"] if one["name"] == "public port"]
    assert finding["state"] == "fix"
    assert str(port) in finding["what"]
    assert "--port" in finding["todo"]


def test_a_running_server_is_recognised(running: Running, tmp_path: Path) -> None:
    port = int(running.admin.rpartition(":")[2])
    settings = load(flags={"server.admin_port": port, "server.port": 0}, environ={}, cwd=tmp_path)
    _, admin = checks.ports(settings)
    assert admin.state is State.OK
    assert "running" in admin.what


def test_a_broken_database_and_wrong_settings_are_found(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    flags = {"storage.url": f"sqlite:///{tmp_path}/x.db", "server.admin_host": "0.0.0.0"}
    settings = load(flags=flags, environ={}, cwd=tmp_path)
    assert [finding.state for finding in checks.database(settings)] == [State.FIX]
    assert [finding.state for finding in checks.startable(settings)] == [State.FIX]
    (tmp_path / "file").touch()
    settings = load(flags={"server.data_dir": "file/data"}, environ={}, cwd=tmp_path)
    assert [finding.state for finding in checks.data_folder(settings)] == [State.FIX]
