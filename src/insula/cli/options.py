"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from insula.cli.target import Target

AdminUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--admin-url", metavar="URL", help="Admin port (also INSULA_ADMIN_URL; default http://127.0.0.1:8081)."
    ),
]
Url: TypeAlias = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Public port (also INSULA_URL; default http://127.0.0.1:8080)."),
]
Token: TypeAlias = Annotated[
    str | None, typer.Option("--token", metavar="TEXT", help="Token of the admin port (better: INSULA_ADMIN__TOKEN).")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Timeout: TypeAlias = Annotated[
    float, typer.Option("--timeout", min=0.1, max=3600, metavar="SECONDS", help="Time to wait for the answer.")
]
Plan: TypeAlias = Annotated[bool, typer.Option("--plan", help="Say what would change, and change nothing.")]
ServiceId: TypeAlias = Annotated[str, typer.Argument(metavar="SERVICE", help="Full id: shop.Orders.v1.")]


def target(context: typer.Context, **said: str | None) -> Target:
    """The server of one command: its own flags over those before the command."""
    above = context.find_object(Target) or Target()
    return Target(**said).over(above)
