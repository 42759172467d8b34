"""How a command ends: the exit codes, and an error as one line on stderr with what to type next behind or below it."""

from __future__ import annotations

import json
import sys

from insula.errors import WIRE, Code, ConfigurationError, InsulaError
from insula.logs import escaped

DONE = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
TOO_LATE = 4
INTERRUPTED = 130

#: Characters of a line on stderr; where message and hint are longer, the hint is on the next.
LINE = 120

#: `insula call` ends with this plus the gRPC number of the service's error.
CALL_BASE = 20

EXIT_CODES: tuple[tuple[str, str], ...] = (
    (str(DONE), "done"),
    (str(FAILED), "refused or failed: the message says why, the line below it what to do"),
    (str(USAGE), "the command line or the settings are wrong"),
    (str(UNREACHABLE), "the server cannot be reached"),
    (str(TOO_LATE), "the server did not answer in time"),
    ("21-36", "insula call: 20 plus the number of the code, 23 invalid_argument, 25 not_found, 34 unavailable"),
    (str(INTERRUPTED), "interrupted"),
)


class UsageError(InsulaError):
    """The command line asks for what cannot be."""

    default_code = Code.INVALID_ARGUMENT


class UnreachableError(InsulaError):
    """No server answers where one was looked for."""

    default_code = Code.UNAVAILABLE


class TooLateError(InsulaError):
    """The server took the request and did not answer in time."""

    default_code = Code.DEADLINE_EXCEEDED


class CallFailedError(InsulaError):
    """The called service, or the server in its place, answered with an error."""


def exit_code(error: InsulaError) -> int:
    """The exit code of a command that ends with this error."""
    match error:
        case CallFailedError():
            return CALL_BASE + WIRE[error.code].grpc
        case UsageError() | ConfigurationError():
            return USAGE
        case UnreachableError():
            return UNREACHABLE
        case TooLateError():
            return TOO_LATE
        case _:
            return FAILED


def report(error: InsulaError, *, as_json: bool = False) -> None:
    """Writes an error for people to stderr, and for programs to stdout too. What a server or a service says is on one line,
    so that none of it passes for another message of this command."""
    message = f"error: {error.message}"
    lines = [escaped(line) for line in (message.split("\n") if error.has_lines else [message])]
    hint = escaped(error.hint or "")
    if hint and len(lines) == 1 and len(lines[0]) + len(hint) < LINE - 3:
        lines = [f"{lines[0]} ({hint})"]
    elif hint:
        lines.append(f"  {hint}")
    for line in lines:
        print(line, file=sys.stderr)
    if as_json:
        body = {"error": error.message, "code": error.code.value, "message": error.message, "hint": error.hint}
        print(json.dumps(body))
