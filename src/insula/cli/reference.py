"""docs/cli.md, written from the commands themselves."""

from __future__ import annotations

from inspect import cleandoc
from pathlib import Path

import click

from insula.cli import options

_INTRO = """# Command line

<!-- Written from src/insula/cli/ by `make docs`. -->

`insula` and `python -m insula` are the same. Commands are ordinary clients: all but `serve`, `inspect FILE`,
`new`, `build`, `doctor` and `config` talk to a server over its admin API (`--admin-url`, `--token`) or its public port
(`--url`).

What is not given comes from the environment (`INSULA_ADMIN_URL`, `INSULA_URL`, `INSULA_ADMIN__TOKEN`), then from the
settings of the working directory, so that in the folder of a server no option is needed. A token that stands in a file
there is sent to the server of that folder alone.

People get aligned text, programs `--json`; with it an error is a JSON object on stdout too. Errors are one line on
stderr, with what to do next below it.

`insula completion bash` (or zsh, fish) prints the script that completes commands and options.

## Exit codes

| code | meaning |
|---|---|
"""


@click.command("reference", hidden=True)
@click.option("--write", type=options.FILE, metavar="FILE", help="Write it there.")
def reference(write: Path | None) -> None:
    """Print docs/cli.md."""
    root = click.get_current_context().find_root().command
    assert isinstance(root, click.Group)
    if write is None:
        print(text(root), end="")
    else:
        write.write_text(text(root), encoding="utf-8")


def text(root: click.Group) -> str:
    """The whole document, of this command and all below it."""
    from insula.cli.failures import EXIT_CODES

    codes = "".join(f"| {code} | {what} |\n" for code, what in EXIT_CODES)
    return _INTRO + codes + "".join(_commands(root, "insula"))


def _commands(group: click.Group, path: str) -> list[str]:
    parts: list[str] = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            parts += _commands(command, f"{path} {name}")
        elif not command.hidden:
            parts.append(_command(command, f"{path} {name}"))
    return parts


def _command(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path)
    arguments = " ".join(one.make_metavar(context) for one in command.params if isinstance(one, click.Argument))
    lines = [f"\n## {path}\n\n```sh\n{path} {arguments}".rstrip() + f"\n```\n\n{cleandoc(command.help or '')}\n\n"]
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            lines.append(f"- `{record[0]}`: {record[1]}\n")
    return "".join(lines)
