"""`insula inspect`: what a package is and asks for, in plain words, before anybody trusts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from insula.cli import options, output
from insula.cli.failures import UsageError
from insula.cli.packages import print_shown


@click.command("inspect")
@click.argument("package", metavar="PACKAGE", type=options.Package())
@options.admin
def inspect(package: str, as_json: bool, admin_url: str | None, token: str | None) -> None:
    """Say what a package is and asks for, in plain words.

    PACKAGE is a file, which is read here without a server, and nothing in it is run; or the id of a deployed service, for
    which the server is asked.
    """
    file = Path(package)
    if file.exists() or "/" in package or package.endswith(".pkg"):
        _inspect_file(file, as_json=as_json)
        return
    if package.count(".") < 2:
        raise UsageError(
            f"there is no file {package}, and it is not the id of a service",
            hint="insula inspect dist/NAME-VERSION.okra.pkg, or insula inspect shop.Orders.v1",
        )
    from insula.cli.client import AdminClient

    url, secret = options.target(admin_url=admin_url, token=token).admin()
    with AdminClient(url, secret) as client:
        shown = client.show(package)
    output.as_json(shown) if as_json else print_shown(shown)


def _inspect_file(file: Path, *, as_json: bool) -> None:
    import msgspec

    from insula.packages.describe import describe, open_package

    with open_package(file) as package:
        sentences = describe(package)
        facts: dict[str, Any] = {
            "service_id": str(package.service_id),
            "version": package.config.version,
            "digest": f"sha256:{package.digest}",
            "host_apis": list(package.config.host_apis),
            "grants": msgspec.to_builtins(package.config.grants),
            "limits": msgspec.to_builtins(package.config.limits),
            "methods": [method.name for method in package.schema.service.methods],
            "description": sentences,
        }
    if as_json:
        output.as_json(facts)
        return
    for sentence in sentences:
        output.line(sentence)
