"""`insula serve`: flags become settings, and the server is imported and run. No other command imports it."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from insula.server import Server

#: The example of `make serve`, whose input is known.
GREETER = "examples.Greeter.v1"


def serve(
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="ADDRESS", help="Address of the public port; 0.0.0.0 opens it to others."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", "--service-port", metavar="PORT", min=0, max=65535, help="Public port; default 8080."),
    ] = None,
    admin_host: Annotated[
        str | None,
        typer.Option("--admin-host", metavar="ADDRESS", help="Address of the admin port; not loopback: needs a token."),
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option("--admin-port", metavar="PORT", min=0, max=65535, help="Admin port; default 8081.")
    ] = None,
    deploy: Annotated[
        list[str] | None,
        typer.Option("--deploy", metavar="PACKAGE", help="Deploy it at start if it is not there yet; repeatable."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="TOML file; default insula.toml, if there.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="DIR", help="Data folder; default ./insula-data.")
    ] = None,
    apps_dir: Annotated[Path | None, typer.Option("--apps-dir", metavar="DIR", help="Folder of .rune apps.")] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="insula, rune or tinywasm: changes defaults only.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", metavar="FORMAT", help="text or json.")] = None,
) -> None:
    """Run the server, in the foreground, until SIGINT or SIGTERM.

    The first signal refuses new requests and lets those in flight end; a second one stops at once. docs/configuration.md
    lists every setting; flags win over the environment (INSULA_SERVER__PORT), .env and the file.
    """
    flags = {
        "server.host": host,
        "server.port": port,
        "server.admin_host": admin_host,
        "server.admin_port": admin_port,
        "server.data_dir": data_dir,
        "server.apps_dir": apps_dir,
        "server.profile": profile,
        "logging.level": log_level,
        "logging.format": log_format,
    }
    raise typer.Exit(run(config, flags, deploy or []))


def run(config: Path | None, flags: dict[str, Any], deploy: list[str]) -> int:
    """The exit code of the server on these settings; ConfigurationError before anything is opened."""
    from insula.settings import check_startable, load

    settings = load(config, flags)
    check_startable(settings)
    from insula.server import Server

    welcome: list[asyncio.Task[None]] = []  # a task that nobody holds may be collected before it has run
    return Server(
        settings, deploy=deploy, ready=lambda server: welcome.append(asyncio.create_task(_welcome(server)))
    ).run()


async def _welcome(server: Server) -> None:
    """Where the server is, and a line that can be pasted to try it."""
    public, admin = (_url(*address) for address in (server.address, server.admin_address))
    print(f"Insula {version('insula')}\n  services  {public}\n  admin     {admin}")
    services = server.deployments.list()
    if services:
        endpoints = (await server.deployments.show(services[0].id)).endpoints
        body = '{"name": "you"}' if services[0].id == GREETER else "{}"
        print(f"  try       curl -H 'Content-Type: application/json' -d '{body}' {public}{endpoints[0]}")
    else:
        print("  try       insula deploy NAME.okra.pkg")
    sys.stdout.flush()


def _url(host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
