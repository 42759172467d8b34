"""`insula inspect`: what a package is and asks for, in plain words, before anybody trusts it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from insula.cli import output
from insula.cli.options import AdminUrl, Json, Token, target
from insula.cli.packages import print_shown


def inspect(
    context: typer.Context,
    package: Annotated[str, typer.Argument(metavar="PACKAGE", help="NAME.okra.pkg, or the id of a service.")],
    json: Json = False,
    admin_url: AdminUrl = None,
    token: Token = None,
) -> None:
    """Say what a package is and asks for, in plain words.

    A file is read here; no server is needed, and nothing in it is run. For the id of a deployed service the server is
    asked.
    """
    file = Path(package)
    if file.exists() or "/" in package or package.endswith(".pkg"):
        _inspect_file(file, json=json)
        return
    from insula.cli.client import AdminClient

    url, secret = target(context, admin_url=admin_url, token=token).admin()
    with AdminClient(url, secret) as client:
        shown = client.show(package)
    output.as_json(shown) if json else print_shown(shown)


def _inspect_file(file: Path, *, json: bool) -> None:
    import msgspec

    from insula.packages.describe import describe, open_package

    with open_package(file) as package:
        sentences = describe(package)
        facts: dict[str, Any] = {
            "service_id": str(package.service_id),
            "version": package.config.version,
            "digest": package.digest,
            "host_apis": list(package.config.host_apis),
            "grants": msgspec.to_builtins(package.config.grants),
            "limits": msgspec.to_builtins(package.config.limits),
            "methods": [method.name for method in package.schema.service.methods],
            "description": sentences,
        }
    if json:
        output.as_json(facts)
        return
    for sentence in sentences:
        output.line(sentence)
