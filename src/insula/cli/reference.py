"""docs/cli.md, written from the commands themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_INTRO = """# Command line

<!-- Written from src/insula/cli/ by `insula reference --write docs/cli.md`. -->

`insula` and `python -m insula` are the same. Commands are ordinary clients: all but `serve`, `inspect FILE`,
`new`, `build`, `doctor` and `config` talk to a server over its admin API (`--admin-url`, `--token`) or its public port
(`--url`).

What is not given comes from the environment (`INSULA_ADMIN_URL`, `INSULA_URL`, `INSULA_ADMIN__TOKEN`), then from the
settings of the working directory, so that in the folder of a server no option is needed. A token that stands in a file
there is sent to the server of that folder alone.

People get aligned text, programs `--json`; with it an error is a JSON object on stdout too. Errors are one line on
stderr, with what to do next below it.

`insula --install-completion` sets up completion for bash, zsh, fish and PowerShell.

## Exit codes

| code | meaning |
|---|---|
"""


def reference(
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="Write it there.")] = None,
) -> None:
    """Print docs/cli.md."""
    if write is None:
        print(text(), end="")
    else:
        write.write_text(text(), encoding="utf-8")


def text() -> str:
    """The whole document."""
    from insula.cli.failures import EXIT_CODES
    from insula.cli.main import app

    codes = "".join(f"| {code} | {what} |\n" for code, what in EXIT_CODES)
    return _INTRO + codes + "".join(_commands(typer.main.get_command(app), "insula"))


def _commands(group: Any, path: str) -> list[str]:
    parts: list[str] = []
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            parts += _commands(command, f"{path} {name}")
        else:
            parts.append(_command(command, f"{path} {name}"))
    return parts


def _command(command: Any, path: str) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    usage = " ".join(one.metavar if one.required else f"[{one.metavar}]" for one in arguments)
    lines = [f"\n## {path}\n\n```sh\n{path} {usage}".rstrip() + f"\n```\n\n{command.help.strip()}\n\n"]
    context = typer.Context(command, info_name=path)
    for parameter in command.params:
        record = (parameter.metavar, parameter.help) if parameter in arguments else parameter.get_help_record(context)
        if record is not None and parameter.name != "help":
            lines.append(f"- `{record[0]}`: {' '.join(record[1].split())}\n")
    return "".join(lines)
