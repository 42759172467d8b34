"""What a host capability is, and what it sees of the call that it works for.

A capability is one file with a life: made once for the server (`Capability`), configured once a service generation
(`configure` validates what the package asked and the operator granted, refuses unknown keys, and returns its
operations), used at each host call. Capabilities of an embedder come in by the same door: an entry point in the group
`insula.capabilities` that names a callable `(HostServices) -> Capability`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

import msgspec

from insula.calls import Call, ServiceId


class Scope(msgspec.Struct, eq=False):
    """What one call of a guest sees of the host. One a call, used by the thread that runs the guest and, between its
    host calls, by the event loop: never by both at once. `host_calls` counts what the guest asked: while it is 0, nothing
    else here was touched."""

    service: ServiceId
    call: Call
    headers: list[tuple[str, str]] = []
    trailers: list[tuple[str, str]] = []
    host_calls: int = 0
    iterators: dict[str, Any] | None = None


#: One method of a capability: the JSON text of `parameters` in (always an object), the JSON text of `data` out, now or
#: later. The plain part is quick, thread-safe and does no I/O; an awaitable runs on the event loop. Fails by HostError.
Operation: TypeAlias = Callable[[Scope, bytes], "bytes | Awaitable[bytes]"]


class LargeOperation:
    """An operation that takes parameters above `large.MAX_WHOLE` bytes, and reads them by `large.read_large`: one value in
    them may not be JSON. No other operation is given parameters of that size."""

    __slots__ = ("_function",)

    def __init__(self, function: Operation) -> None:
        self._function = function

    def __call__(self, scope: Scope, parameters: bytes) -> bytes | Awaitable[bytes]:
        return self._function(scope, parameters)


class HostError(Exception):
    """What the guest reads as `{"success": false, "error": {code, message}}`. `code` is one of the host API's codes:
    API_NOT_FOUND, METHOD_NOT_FOUND, INVALID_PARAMETERS, POLICY_DENIED, RESPONSE_TOO_LARGE, ITERATOR_NOT_FOUND,
    ITERATOR_LIMIT_EXCEEDED, NOT_FOUND, CONFLICT, LIMIT_EXCEEDED, TIMEOUT, CANCELLED, UNAVAILABLE, INTERNAL_ERROR."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Capability(Protocol):
    """One host capability, such as `okra.state`."""

    name: str

    def configure(self, service: ServiceId, options: Mapping[str, Any], /) -> Mapping[str, Operation]:
        """The operations for one service generation, by method name. `options` is what the package asked of this
        capability and was granted (`{"keys": ["REGION"]}`). PackageError for an unknown key or a wrong type."""
