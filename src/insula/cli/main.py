"""The command line: its commands, what stands before them, and how an error ends it.

Every command is a client of the admin API or of the public port, but `serve`, which imports the server, and `inspect`,
`new`, `build` and `doctor`, which work on this machine. What a command needs is imported when it runs.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from insula.cli import authoring, call, config, doctor, inspect, packages, reference, serve
from insula.cli.failures import EXIT_CODES, FAILED, INTERRUPTED, exit_code, report
from insula.cli.options import AdminUrl, Token, Url
from insula.cli.target import Target
from insula.errors import InsulaError

HELP = """Insula: a WebAssembly application server. Drop a package in, and its service answers.

\b
  insula serve                                 run a server: services on 8080, admin on 8081
  insula deploy Greeter-1.0.0.okra.pkg         deploy a package to it
  insula call demo.Greeter/greet '{"name": "you"}'
                                               call a method

\b
  insula new Orders --lang go                  start a service of your own
  insula build orders                          compile it into dist/Orders-0.1.0.okra.pkg

Commands talk to the server of this machine unless --admin-url, --url and --token, before or after the command, or
INSULA_ADMIN_URL, INSULA_URL and INSULA_ADMIN__TOKEN say otherwise.
"""

EPILOG = (
    "\b\nExit codes:\n"
    + "\n".join(f"  {code:<6} {what}" for code, what in EXIT_CODES)
    + "\n\nWith --json a command prints JSON for programs, errors too."
)

app = typer.Typer(help=HELP, epilog=EPILOG, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"insula {version('insula')}")
        raise typer.Exit


@app.callback()
def _global(
    context: typer.Context,
    admin_url: AdminUrl = None,
    url: Url = None,
    token: Token = None,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = Target(admin_url, url, token)


app.command("serve")(serve.serve)
app.command("deploy")(packages.deploy)
app.command("list")(packages.list_services)
app.command("show")(packages.show)
app.command("undeploy")(packages.undeploy)
app.command("rollback")(packages.rollback)
app.command("call")(call.call)
app.command("inspect")(inspect.inspect)
app.command("new")(authoring.new)
app.command("build")(authoring.build)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")
app.command("reference", hidden=True)(reference.reference)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code; an error is one line and a hint on stderr, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=words, prog_name="insula")
    except InsulaError as error:
        report(error, as_json="--json" in words)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("INSULA_TRACEBACK"):
            raise
        hint = "this is a fault of Insula's; please report it with what INSULA_TRACEBACK=1 in the environment shows"
        report(InsulaError(f"internal error: {type(error).__name__}: {error}", hint=hint), as_json="--json" in words)
        return FAILED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
