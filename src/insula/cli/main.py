"""The command line: its commands, what stands before them, and how an error ends it.

Every command is a client of the admin API or of the public port, but `serve`, which imports the server, and `inspect`,
`new`, `build` and `doctor`, which work on this machine. What a command needs is imported when it runs.
"""

from __future__ import annotations

import os
import sys

import click

from insula.cli import authoring, call, completion, config, doctor, inspect, options, packages, reference, serve
from insula.cli.failures import EXIT_CODES, FAILED, INTERRUPTED, exit_code, report
from insula.cli.target import Target
from insula.errors import InsulaError

HELP = """Insula: a WebAssembly application server. Drop a package in, and its service answers.

\b
  insula serve                                 run a server: services on 8080, admin on 8081
  insula deploy Greeter-1.0.0.okra.pkg         deploy a package to it
  insula call examples.Greeter/greet '{"name": "you"}'
                                               call a method

\b
  insula new orders --lang go                  start a service of your own
  insula build orders                          compile it into dist/Orders-0.1.0.okra.pkg

Commands talk to the server of this machine unless --admin-url, --url and --token, before or after the command, or
INSULA_ADMIN_URL, INSULA_URL and INSULA_ADMIN__TOKEN say otherwise.
"""

EPILOG = (
    "\b\nExit codes:\n"
    + "\n".join(f"  {code:<6} {what}" for code, what in EXIT_CODES)
    + "\n\nWith --json a command prints JSON for programs, errors too."
)


def _version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"insula {version('insula')}")
        context.exit()


class _Ordered(click.Group):
    """Lists its commands in the order in which somebody needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)


@click.group("insula", cls=_Ordered, help=HELP, epilog=EPILOG, context_settings={"max_content_width": 100})
@options.admin_url
@options.url
@options.token
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def insula(context: click.Context, admin_url: str | None, url: str | None, token: str | None) -> None:
    """Where every command begins: which server is meant."""
    context.obj = Target(admin_url, url, token)


for command in (
    serve.serve,
    packages.deploy,
    packages.list_services,
    packages.show,
    packages.undeploy,
    packages.rollback,
    packages.retry,
    call.call,
    inspect.inspect,
    authoring.new,
    authoring.build,
    doctor.doctor,
    config.config,
    completion.completion,
    reference.reference,
):
    insula.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code; an error is one line and a hint on stderr, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else arguments
    try:
        insula.main(args=words, prog_name="insula")
    except InsulaError as error:
        report(error, as_json="--json" in words)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        report(
            InsulaError(what, hint="see that the path is right and that you may write there"), as_json="--json" in words
        )
        return FAILED
    except Exception as error:
        if os.environ.get("INSULA_TRACEBACK"):
            raise
        hint = "this is a fault of Insula's; please report it with what INSULA_TRACEBACK=1 in the environment shows"
        report(InsulaError(f"internal error: {type(error).__name__}: {error}", hint=hint), as_json="--json" in words)
        return FAILED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
