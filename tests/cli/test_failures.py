"""An error on stderr: one line, whatever a server or a guest says; more only where the text is our own."""

from __future__ import annotations

import json

import pytest

from insula.build.tools import BuildError
from insula.cli.failures import CallFailedError, TooLateError, UnreachableError, UsageError, report
from insula.errors import CallerError, ConfigurationError, GuestError, InsulaError, PackageError

FORGED = "no\nerror: all is well\r\x1b[2Kdone\u2028more\u202e"


@pytest.mark.parametrize(
    "kind",
    [InsulaError, CallFailedError, UnreachableError, TooLateError, UsageError, GuestError, CallerError, PackageError],
)
@pytest.mark.parametrize("hint", [None, "try\nerror: this", "x" * 200])
def test_what_others_say_is_one_line(
    kind: type[InsulaError], hint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    report(kind(FORGED, hint=hint), as_json=True)
    told, said = capsys.readouterr()
    lines = said.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[:1]
    assert all(line.startswith("  ") for line in lines[1:])
    assert len(lines) <= (1 if hint is None else 2)
    assert "".join(lines).isprintable()
    assert json.loads(told)["message"] == FORGED


@pytest.mark.parametrize("kind", [BuildError, ConfigurationError])
def test_what_we_say_may_have_lines(kind: type[InsulaError], capsys: pytest.CaptureFixture[str]) -> None:
    report(kind("it does not compile:\na.c:1:1: \x1b[31mwhat"))
    assert capsys.readouterr().err.splitlines() == ["error: it does not compile:", "a.c:1:1: \\x1b[31mwhat"]
