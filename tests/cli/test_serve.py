"""`insula serve` as an operator starts it: a process, its exit code, its first words."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SERVE = [sys.executable, "-m", "insula", "serve"]


def ended(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SERVE, *flags], capture_output=True, text=True, cwd=folder, timeout=30, check=False)


@pytest.mark.parametrize("option", ["--port", "--admin-port"])
def test_a_taken_port_ends_it_with_one_line_that_names_port_and_option(tmp_path: Path, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        other = "--admin-port" if option == "--port" else "--port"
        done = ended(tmp_path, option, port, other, "0")
    assert done.returncode not in (0, -signal.SIGTERM)
    (line,) = done.stderr.splitlines()
    assert port in line
    assert option in line.replace("(", " ").replace(")", " ").split()
    assert "listening" not in done.stdout + done.stderr


def test_a_misspelt_setting_ends_it_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "insula.toml").write_text("[rate_limit]\nrequests_per_minut = 987654")
    done = ended(tmp_path)
    assert done.returncode == 2
    assert "`rate_limit.requests_per_minut`" in done.stderr
    assert "`rate_limit.requests_per_second`" in done.stderr
    assert "987654" not in done.stderr
    assert not (tmp_path / "insula-data").exists()


def test_a_package_that_is_not_there_ends_it_before_anything_is_opened(tmp_path: Path) -> None:
    done = ended(tmp_path, "--deploy", "gone.okra.pkg")
    assert done.returncode == 2
    assert done.stderr == (
        "error: gone.okra.pkg is to be deployed, and there is no such file (name a package, or an example: greeter)\n"
    )
    assert not (tmp_path / "insula-data").exists()


def test_it_says_where_it_is_and_ends_with_0_at_a_signal(tmp_path: Path) -> None:
    flags = ["--port", "0", "--admin-port", "0", "--data-dir", "data"]
    with subprocess.Popen([*SERVE, *flags], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(4)]
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    assert lines[0].startswith("Insula ")
    assert lines[1].split() == ["services", lines[1].split()[1]]
    assert lines[3].split()[0] == "try"
    assert (tmp_path / "data").is_dir()
