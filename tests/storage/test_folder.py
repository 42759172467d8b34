"""The data folder: mode, lock, id."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from insula.errors import ConfigurationError
from insula.storage.folder import DataFolder


def test_makes_the_folder_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "data"
    with DataFolder.open(path) as folder:
        assert folder.path == path
        assert re.fullmatch("[0-9a-f]{32}", folder.node_id)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}


def test_the_id_stays_and_is_another_in_another_folder(tmp_path: Path) -> None:
    ids = []
    for name in ("one", "one", "two"):
        with DataFolder.open(tmp_path / name) as folder:
            ids.append(folder.node_id)
    assert ids[0] == ids[1] != ids[2]


def test_a_second_server_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with DataFolder.open(tmp_path), pytest.raises(ConfigurationError) as caught:
        DataFolder.open(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert f"pid {os.getpid()}" in caught.value.message
    assert "--data-dir" in (caught.value.hint or "")
    DataFolder.open(tmp_path).close()


def test_the_lock_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom insula.storage.folder import DataFolder\n"
        "folder = DataFolder.open(Path(sys.argv[1]))\nprint(folder.node_id, flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        node_id = server.stdout.readline().strip()
        with pytest.raises(ConfigurationError, match=f"pid {server.pid}"):
            DataFolder.open(tmp_path)
        server.send_signal(signal.SIGKILL)
        server.wait()
    with DataFolder.open(tmp_path) as folder:
        assert folder.node_id == node_id


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    folder.close()
    again = DataFolder.open(tmp_path)
    folder.close()
    with pytest.raises(ConfigurationError):
        DataFolder.open(tmp_path)
    again.close()


@pytest.mark.parametrize("text", ["", "x" * 32, "a" * 31, "a" * 33])
def test_an_id_that_is_none_is_refused_and_gives_the_lock_back(tmp_path: Path, text: str) -> None:
    (tmp_path / "node-id").write_text(text)
    with pytest.raises(ConfigurationError, match="node-id"):
        DataFolder.open(tmp_path)
    (tmp_path / "node-id").write_text("a" * 32 + "\n")
    with DataFolder.open(tmp_path) as folder:
        assert folder.node_id == "a" * 32


def test_an_id_left_half_written_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "node-id.new").write_text("ab")
    with DataFolder.open(tmp_path) as folder:
        assert (tmp_path / "node-id").read_text() == f"{folder.node_id}\n"


def test_what_is_no_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "lock").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "linked"):
        with pytest.raises(ConfigurationError, match=str(path)):
            DataFolder.open(path)
    assert not (tmp_path / "elsewhere").exists()
