"""Every refusal and failure of the server: one enum of codes and one exception tree.

The codes are the sixteen of Connect and gRPC. `WIRE` is the one table that says what each code is on every wire (gRPC
number, HTTP status of Connect, JSON-RPC number); a gateway looks it up and never decides for itself. The exception
tree says who broke the rules: the caller, the guest, the operator, a peer, or this server.

An error's message and hint go to the caller, so they never hold a secret, a stack trace or a path of this machine
that the caller did not name. What only the operator may see is logged where the error is raised.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Code(enum.Enum):
    """The codes of Connect and gRPC; the value is the name on the Connect wire."""

    CANCELED = "canceled"
    UNKNOWN = "unknown"
    INVALID_ARGUMENT = "invalid_argument"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    PERMISSION_DENIED = "permission_denied"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    FAILED_PRECONDITION = "failed_precondition"
    ABORTED = "aborted"
    OUT_OF_RANGE = "out_of_range"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    DATA_LOSS = "data_loss"
    UNAUTHENTICATED = "unauthenticated"


class Wire(NamedTuple):
    """What one code is on each wire."""

    grpc: int
    http: int
    jsonrpc: int


#: Connect's own table of HTTP statuses (connectrpc.com/docs/protocol, Error Codes), gRPC's numbers, and the JSON-RPC
#: number -32000 minus the gRPC number.
WIRE: dict[Code, Wire] = {
    code: Wire(grpc, http, -32000 - grpc)
    for code, grpc, http in (
        (Code.CANCELED, 1, 499),
        (Code.UNKNOWN, 2, 500),
        (Code.INVALID_ARGUMENT, 3, 400),
        (Code.DEADLINE_EXCEEDED, 4, 504),
        (Code.NOT_FOUND, 5, 404),
        (Code.ALREADY_EXISTS, 6, 409),
        (Code.PERMISSION_DENIED, 7, 403),
        (Code.RESOURCE_EXHAUSTED, 8, 429),
        (Code.FAILED_PRECONDITION, 9, 400),
        (Code.ABORTED, 10, 409),
        (Code.OUT_OF_RANGE, 11, 400),
        (Code.UNIMPLEMENTED, 12, 501),
        (Code.INTERNAL, 13, 500),
        (Code.UNAVAILABLE, 14, 503),
        (Code.DATA_LOSS, 15, 500),
        (Code.UNAUTHENTICATED, 16, 401),
    )
}

_BY_NAME = {code.value: code for code in Code}


def code_named(name: object) -> Code:
    """The code with this Connect name; `UNKNOWN` for anything else, as a guest may write what it likes."""
    return _BY_NAME.get(name, Code.UNKNOWN) if isinstance(name, str) else Code.UNKNOWN


class Detail(NamedTuple):
    """One error detail: the full name of a protobuf message type and its binary form."""

    type_name: str
    value: bytes


class InsulaError(Exception):
    """A refusal or failure that a client may see.

    `code` is what programs decide by, `reason` a finer name below it (`token_expired`), `message` says what is wrong and
    whose rule it breaks, `hint` what to do next. `status` overrides the HTTP status of REST and plain HTTP answers where
    HTTP has a finer one than the code's own (413, 507); protocols with a table of their own ignore it. `headers` and
    `trailers` are the metadata that a guest had set before its call failed; the service that runs the call puts them there.
    `has_lines` is for errors whose messages are made here and have several lines; in others a line end is text.
    """

    default_code = Code.INTERNAL
    has_lines = False

    def __init__(
        self,
        message: str,
        *,
        code: Code | None = None,
        reason: str | None = None,
        hint: str | None = None,
        details: tuple[Detail, ...] = (),
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.reason = reason
        self.message = message
        self.hint = hint
        self.details = details
        self._status = status
        self.retry_after = retry_after
        self.headers: tuple[tuple[str, str], ...] = ()
        self.trailers: tuple[tuple[str, str], ...] = ()

    @property
    def http_status(self) -> int:
        """The HTTP status of a REST or plain HTTP answer."""
        return self._status or WIRE[self.code].http

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class CallerError(InsulaError):
    """The client asked for something that it may not have or wrote wrongly."""

    default_code = Code.INVALID_ARGUMENT


class PackageError(CallerError):
    """A package is not one: what it lacks, or holds and may not. HTTP 400."""


class ConfigurationError(InsulaError):
    """The operator's settings cannot be used: the message names the full key, and no value."""

    default_code = Code.FAILED_PRECONDITION
    has_lines = True


class GuestError(InsulaError):
    """The guest broke its contract: it trapped, returned what is not there, or answered in the wrong shape."""

    default_code = Code.INTERNAL


class LimitError(InsulaError):
    """A limit was reached: memory, mailbox, size, depth, rate."""

    default_code = Code.RESOURCE_EXHAUSTED


class DeadlineError(InsulaError):
    """The call's deadline passed before there was an answer."""

    default_code = Code.DEADLINE_EXCEEDED


class UnavailableError(InsulaError):
    """The server, service or peer is not taking calls now: it starts, drains, is stopped or out of reach."""

    default_code = Code.UNAVAILABLE


def forget_frames(error: BaseException) -> None:
    """Lets go of the frames that an error came through, once it has been told, and of those of its causes. A future that
    failed is mostly among their variables, and the future has the error: a circle that only the garbage collector would
    break, with a body of megabytes in it."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
