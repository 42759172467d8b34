"""`insula serve`: flags become settings, and the server is imported and run. No other command imports it."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from insula.background import Tasks
from insula.cli import options, output
from insula.interpreter import importing, serving

if TYPE_CHECKING:
    from insula.server import Server

#: The example of `make serve`, whose input is known.
GREETER = "examples.Greeter.v1"
PORT = click.IntRange(0, 65535)


@click.command("serve")
@click.option("--host", metavar="ADDRESS", help="Address of the public port; 0.0.0.0 opens it to others.")
@click.option("--port", "--service-port", type=PORT, metavar="PORT", help="Public port; default 8080.")
@click.option("--admin-host", metavar="ADDRESS", help="Address of the admin port; not loopback: needs a token.")
@click.option("--admin-port", type=PORT, metavar="PORT", help="Admin port; default 8081.")
@click.option(
    "--deploy",
    metavar="FILE",
    multiple=True,
    help="Deploy this package, or an example (greeter), unless it is deployed; may be repeated.",
)
@options.config_file
@click.option("--data-dir", type=options.FOLDER, metavar="DIR", help="Data folder; default ./insula-data.")
@click.option("--apps-dir", type=options.FOLDER, metavar="DIR", help="Folder of .rune apps; not in this version.")
@click.option("--profile", metavar="NAME", help="insula, rune or tinywasm: changes defaults only.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@click.option("--log-format", metavar="FORMAT", help="text or json.")
def serve(
    host: str | None,
    port: int | None,
    admin_host: str | None,
    admin_port: int | None,
    deploy: tuple[str, ...],
    config: Path | None,
    data_dir: Path | None,
    apps_dir: Path | None,
    profile: str | None,
    log_level: str | None,
    log_format: str | None,
) -> None:
    """Run the server, in the foreground, until it is told to stop.

    SIGINT, SIGTERM and the end of its terminal tell it. The first signal refuses new requests and lets those in flight
    end; a second one stops at once. Flags win over the environment (INSULA_SERVER__PORT), .env and the file; insula
    config docs prints every setting there is.
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
    click.get_current_context().exit(run(config, flags, deploy))


def run(config: Path | None, flags: dict[str, Any], deploy: tuple[str, ...]) -> int:
    """The exit code of the server on these settings; ConfigurationError before anything is opened."""
    with importing():
        from insula.settings import check_startable, load

    settings = load(config, flags)
    check_startable(settings)
    with importing():
        from insula.server import Server

    serving()
    tasks = Tasks()

    def welcome(server: Server) -> None:
        tasks.start(_welcome(server), "the welcome")

    return Server(settings, deploy=deploy, ready=welcome).run()


async def _welcome(server: Server) -> None:
    """Where the server is, and a line that can be pasted to try it."""
    public, admin = (_url(*address) for address in (server.address, server.admin_address))
    lines = [f"Insula {version('insula')}", f"  services  {public}", f"  admin     {admin}"]
    # one that did not start has no endpoint to try
    running = [service.id for service in server.deployments.list() if service.state not in ("stopped", "starting")]
    if running:
        endpoints = (await server.deployments.show(running[0])).endpoints
        body = '{"name": "you"}' if running[0] == GREETER else "{}"
        lines.append(f"  try       curl -H 'Content-Type: application/json' -d '{body}' {public}{endpoints[0]}")
    else:
        lines.append("  try       insula deploy NAME.okra.pkg")
    for line in lines:
        output.line(line)
    sys.stdout.flush()


def _url(host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
