"""`insula doctor`: looks at this machine and says what would not work, and what to type about it."""

from __future__ import annotations

from pathlib import Path

import click

from insula.cli import options, output
from insula.cli.failures import DONE, FAILED


@click.command("doctor")
@options.config_file
@options.as_json
def doctor(config: Path | None, as_json: bool) -> None:
    """Check this machine, and say what to do about it.

    Python, the engine, compilers, settings, ports, data folder, disk, database, limits of the system. Each line is ok,
    note (works, and may matter) or fix (will not work, and what to do). The exit code is 1 if there is one to fix.
    """
    from insula.cli.checks import ALL, State
    from insula.settings import load

    settings = load(config)
    findings = [finding for check in ALL for finding in check(settings)]
    if as_json:
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
    wrong = any(finding.state is State.FIX for finding in findings)
    click.get_current_context().exit(FAILED if wrong else DONE)
