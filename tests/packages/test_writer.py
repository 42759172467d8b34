from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from insula.packages.writer import write_package
from tests.packages.archives import CONFIG, IDL, WASM, schema


def write(target: Path, **more: object) -> str:
    return write_package(target, **({"config": CONFIG, "schema": schema(), "wasm": WASM, "idl": IDL} | more))  # type: ignore[arg-type]


def test_the_same_bytes_for_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write(tmp_path / "one.okra.pkg", migrations={"b.sql": b"2", "a.sql": b"1"})
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    os.umask(os.umask(0o077))
    two = write(tmp_path / "two.okra.pkg", migrations={"a.sql": b"1", "b.sql": b"2"})
    assert one == two == hashlib.sha256((tmp_path / "one.okra.pkg").read_bytes()).hexdigest()
    assert (tmp_path / "one.okra.pkg").read_bytes() == (tmp_path / "two.okra.pkg").read_bytes()
    assert write(tmp_path / "three.okra.pkg", wasm=WASM + b"\0") != one


def test_what_is_in_it(tmp_path: Path) -> None:
    write(tmp_path / "x.okra.pkg", idl=None, migrations={"a.sql": b"1"})
    with tarfile.open(tmp_path / "x.okra.pkg", "r:gz") as archive:
        members = archive.getmembers()
    assert [entry.name for entry in members] == [
        "migrations/a.sql",
        "okra.json",
        "service.description.json",
        "service.pb.desc",
        "service.wasm",
    ]
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.mode) for entry in members} == {(0, 0, 0, "", 0o644)}
    assert (tmp_path / "x.okra.pkg").read_bytes()[3:10] == b"\0\0\0\0\0\2\xff"
