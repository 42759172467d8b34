"""Options that several commands share, and what they make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from insula.cli.target import Target

F = TypeVar("F", bound=Callable[..., Any])


class Package(click.types.StringParamType):
    """A package as it is named on the command line: mostly a file, whose name the shell completes, else a URL or an id."""

    name = "package"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Has the shell complete a file's name."""
        return [CompletionItem(incomplete, type="file")]


FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

admin_url = click.option(
    "--admin-url", metavar="URL", help="Admin port (also INSULA_ADMIN_URL; default http://127.0.0.1:8081)."
)
url = click.option("--url", metavar="URL", help="Public port (also INSULA_URL; default http://127.0.0.1:8080).")
token = click.option("--token", metavar="TEXT", help="Token of the admin port (better: INSULA_ADMIN__TOKEN).")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
plan = click.option("--plan", is_flag=True, help="Say what would change, and change nothing.")
service = click.argument("service", metavar="SERVICE")
config_file = click.option("--config", type=FILE, metavar="FILE", help="TOML file; default insula.toml, if there.")


def timeout(seconds: float) -> Callable[[F], F]:
    """`--timeout` with a default of so many seconds."""
    return click.option(
        "--timeout",
        type=click.FloatRange(0.1, 3600),
        default=seconds,
        metavar="SECONDS",
        help=f"Time to wait for the answer; default {seconds:g}.",
    )


def admin(command: F) -> F:
    """`--json`, `--admin-url` and `--token`: what every command of the admin API takes."""
    return as_json(admin_url(token(command)))


def target(**said: str | None) -> Target:
    """The server of one command: its own flags over those before the command."""
    above = click.get_current_context().find_object(Target) or Target()
    return Target(**said).over(above)
