from __future__ import annotations

import os
from pathlib import Path

import pytest

from insula.durable import flush, replace_file, write_file


def test_the_old_file_stays_where_the_new_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.okra.pkg"
    target.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            replace_file(target, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x.okra.pkg", b"old")]
    replace_file(target, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x.okra.pkg", b"new")]


def test_flushes_a_file_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    flushed, replaced = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        done.append(f"fsync {os.readlink(f'/proc/self/fd/{handle}').replace(str(tmp_path), '')[-5:]}")
        flushed(handle)

    def replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return replaced(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    replace_file(tmp_path / "x", b"new")
    assert done == ["fsync .part", "rename", "fsync "]
    write_file(tmp_path / "y", b"")
    flush(tmp_path / "y")
    assert done[3:] == ["fsync /y", "fsync /y"]
