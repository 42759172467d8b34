"""What comes from elsewhere is escaped in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from insula.cli import output

SOURCE = Path(output.__file__).parent
FORGED = "a\r\nerror: b\x1b[31m\u202ec\u2028d\x9b2J\udc80"

#: Where else something is printed: texts of this program alone, and errors, which are escaped there.
PRINTS = {
    "output.py": "the place",
    "failures.py": "errors",
    "main.py": "the version",
    "config.py": "the reference of the settings",
    "reference.py": "the reference of the commands",
    "completion.py": "the script for the shell",
}


def test_nothing_else_prints() -> None:
    found = {
        path.name
        for path in SOURCE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo", "sys.stdout.write")
    }
    assert found == PRINTS.keys()


def test_every_way_of_printing_keeps_a_line_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.line(FORGED)
    output.facts([("name", FORGED)])
    output.table(("HEADING",), [[FORGED]])
    output.aside(FORGED)
    output.as_json({"name": FORGED})
    told, aside = capsys.readouterr()
    assert len(told.splitlines()) == 7
    assert len(aside.splitlines()) == 1
    assert all(line.isprintable() for line in (*told.splitlines(), *aside.splitlines()))


def test_a_text_of_lines_keeps_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    output.lines(f"one\n{FORGED}")
    told = capsys.readouterr().out
    assert told.split("\n")[0] == "one"
    assert all(line.isprintable() for line in told.split("\n"))
    output.lines("x" * 100_000)
    assert len(capsys.readouterr().out) == 100_001
