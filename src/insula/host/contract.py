"""What a host capability is.

A capability is one file with a life
- link: made once for the server, by a callable `(HostServices) -> Capability` (see catalogue.py). Those of an embedder come
  by the same door: an entry point in the group `insula.capabilities`.
- configure: once a service generation. It checks what the package asked and the operator granted, refuses unknown keys, and
  gives a `Configured`.
- prepare: once an instance, before that starts.

What a capability does is in the plain methods of its `Configured`. A binding for a guest ABI is a thin table over them: it
reads arguments, calls a method and writes the result. So every ABI has the same behaviour, and one set of tests holds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

from insula.calls import ServiceId
from insula.host.scope import Home, Scope

#: One method of the okra binding: the JSON text of `parameters` in (always an object), the JSON text of `data` out, now or
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
    """What the guest is told, in the words of its ABI. `code` is one of the host API's codes:
    API_NOT_FOUND, METHOD_NOT_FOUND, INVALID_PARAMETERS, POLICY_DENIED, RESPONSE_TOO_LARGE, ITERATOR_NOT_FOUND,
    ITERATOR_LIMIT_EXCEEDED, NOT_FOUND, CONFLICT, LIMIT_EXCEEDED, TIMEOUT, CANCELLED, UNAVAILABLE, INTERNAL_ERROR."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Configured:
    """A capability as one service generation has it. Its subclasses have methods of their own: plain Python values in and
    out, the scope first where they need it. A method that is no coroutine is quick, thread-safe and does no I/O. They fail
    by HostError or InsulaError."""

    @property
    def okra(self) -> Mapping[str, Operation]:
        """The binding for guests of okra packages: operations by method name."""
        return {}

    def prepare(self, home: Home) -> None:
        """Makes ready for an instance that is about to start; what this needs undone goes to `home.on_end`. On the event
        loop."""


class Capability(Protocol):
    """One host capability, such as `okra.state`, linked to the server."""

    name: str

    def configure(self, service: ServiceId, options: Mapping[str, Any], /) -> Configured:
        """The capability for one service generation. `options` is what the package asked of this capability and was granted
        (`{"keys": ["REGION"]}`). PackageError for an unknown key or a wrong type."""
