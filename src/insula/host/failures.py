"""Between the codes of this server and those that a guest reads from the host API."""

from __future__ import annotations

from insula.errors import Code, InsulaError
from insula.host.contract import HostError

#: What a guest is told where a host operation failed with one of the server's own errors. Codes that are not here say
#: nothing that a guest could act on and are INTERNAL_ERROR.
HOST_CODES: dict[Code, str] = {
    Code.INVALID_ARGUMENT: "INVALID_PARAMETERS",
    Code.OUT_OF_RANGE: "INVALID_PARAMETERS",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.UNIMPLEMENTED: "NOT_FOUND",
    Code.ALREADY_EXISTS: "CONFLICT",
    Code.ABORTED: "CONFLICT",
    Code.FAILED_PRECONDITION: "CONFLICT",
    Code.PERMISSION_DENIED: "POLICY_DENIED",
    Code.UNAUTHENTICATED: "POLICY_DENIED",
    Code.RESOURCE_EXHAUSTED: "LIMIT_EXCEEDED",
    Code.DEADLINE_EXCEEDED: "TIMEOUT",
    Code.CANCELED: "CANCELLED",
    Code.UNAVAILABLE: "UNAVAILABLE",
}


def host_error(error: InsulaError) -> HostError:
    """The same failure in the words of the host API."""
    return HostError(HOST_CODES.get(error.code, "INTERNAL_ERROR"), error.message)
