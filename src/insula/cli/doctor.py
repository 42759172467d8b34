"""`insula doctor`: looks at this machine and says what would not work, and what to type about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from insula.cli import output
from insula.cli.failures import DONE, FAILED
from insula.cli.options import Json


def doctor(
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file.")] = None,
    json: Json = False,
) -> None:
    """Check this machine: Python, engine, compilers, ports, data folder, disk, database, limits.

    Each line is ok, note (works, and may matter) or fix (will not work, and what to do). The exit code is 1 if there is
    one to fix.
    """
    from insula.cli.checks import ALL, State
    from insula.settings import load

    settings = load(config)
    findings = [finding for check in ALL for finding in check(settings)]
    if json:
        output.as_json(
            {
                "findings": [
                    {"state": state.value, "name": name, "what": what, "todo": None if state is State.OK else todo}
                    for state, name, what, todo in findings
                ]
            }
        )
    else:
        for state, name, what, todo in findings:
            first, *more = what.split("\n")
            output.line(f"{state.value:<5} {name:<12} {first}")
            for text in more:
                output.line(f"{'':<19}{text.strip()}")
            if state is not State.OK and todo:
                output.line(f"{'':<19}{todo}")
    raise typer.Exit(FAILED if any(finding.state is State.FIX for finding in findings) else DONE)
