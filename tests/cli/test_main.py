"""The command line as a whole: help, exit codes, its document, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from insula.cli import packages, reference
from insula.cli.main import insula as root
from insula.cli.main import main
from tests.cli.conftest import Ended

Run = Callable[..., Ended]
DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def python(script: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_document_in_the_repository_is_the_one_that_the_commands_write() -> None:
    assert DOCUMENT.read_text() == reference.text(root), "run: make docs"


def test_help_says_what_to_type_and_what_exit_codes_mean(insula: Run) -> None:
    done = insula("--help")
    assert done.code == 0
    for text in ("insula serve", "insula deploy", "Exit codes", "INSULA_ADMIN__TOKEN"):
        assert text in done.out
    for name, command in root.commands.items():
        assert command.get_short_help_str(100).endswith("."), name
        assert "..." not in command.get_short_help_str(70), name


def test_version_and_completion(insula: Run) -> None:
    assert insula("--version").out.startswith("insula ")
    for shell in ("zsh", "fish"):
        assert "_INSULA_COMPLETE" in insula("completion", shell).out


def test_an_unknown_command_or_option_is_usage(insula: Run) -> None:
    assert insula("lst").code == 2
    assert insula("list", "--jsn").code == 2
    assert insula("deploy").code == 2


def test_a_fault_of_ours_is_one_line_and_no_traceback(
    insula: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(packages, "_client", broken)
    done = insula("list")
    assert done.code == 1
    assert "Traceback" not in done.err
    monkeypatch.setenv("INSULA_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main(["list"])


def test_a_client_command_imports_nothing_of_the_server(tmp_path: Path) -> None:
    script = """
import sys
from insula.cli.main import main
code = main(["list", "--admin-url", "http://127.0.0.1:1"])
rooms = "server assembly edge gateways services wasm host abi storage deployments api build".split()
heavy = "sqlalchemy wasmtime uvicorn fastapi pydantic prometheus_client".split()
bad = [n for n in sys.modules if n.split(".")[0] in heavy or n.startswith("insula.") and n.split(".")[1] in rooms]
print(code, bad)
"""
    assert python(script, tmp_path) == "3 []"


def test_the_server_imports_nothing_of_the_command_line(tmp_path: Path) -> None:
    script = """
import sys
import insula.server
print([n for n in sys.modules if n.startswith(("insula.cli", "insula.build", "httpx", "rich"))])
"""
    assert python(script, tmp_path) == "[]"


def test_a_file_that_cannot_be_written_is_no_fault_of_ours(insula: Run, tmp_path: Path) -> None:
    place = tmp_path / "nothing" / "x.md"
    done = insula("config", "docs", "--write", str(place))
    assert done.code == 1
    assert f"{place}: No such file or directory" in done.err
    assert "INSULA_TRACEBACK" not in done.err


@pytest.mark.parametrize("command", ["deploy", "inspect"])
def test_the_shell_completes_the_file_of_a_package(command: str) -> None:
    completion = BashComplete(root, {}, "insula", "_INSULA_COMPLETE")
    assert [item.type for item in completion.get_completions([command], "dist/Hel")] == ["file"]
