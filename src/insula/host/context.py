"""`okra.context`: what a guest may know of the call that it works for, and the metadata that it answers with.

`get {}` -> `{principal: {subject, roles} | null, metadata: [[name, value]], deadline (RFC 3339), traceparent,
idempotencyKey}`. `setHeader {name, value}` and `setTrailer {name, value}` -> null; a name may be set more than once, and
each adds a pair.

What a guest may set is decided by `fields.py`, and refused at once: a bad header would break the client's connection,
or turn the whole call into an error. All of one call together: `MAX_PAIRS` pairs and `MAX_BYTES` bytes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from insula.calls import Headers, ServiceId
from insula.fields import MAX_BYTES, MAX_PAIRS, Wrong, fit, guest_fault
from insula.host.contract import Configured, HostError, Operation
from insula.host.options import no_options
from insula.host.parameters import read
from insula.host.scope import Phase, Scope
from insula.host.services import HostServices
from insula.times import rfc3339


class _Pair(msgspec.Struct, gc=False):
    name: str
    value: str


class _Principal(msgspec.Struct, gc=False):
    subject: str
    roles: tuple[str, ...]


class _Context(msgspec.Struct, rename="camel", gc=False):
    principal: _Principal | None
    metadata: Headers
    deadline: str
    traceparent: str
    idempotency_key: str


_pairs = msgspec.json.Decoder(_Pair)
_contexts = msgspec.json.Encoder()


def _get(scope: Scope, _parameters: bytes) -> bytes:
    call = scope.call
    deadline = rfc3339(time.time() + call.remaining())
    principal = None if call.principal is None else _Principal(call.principal.subject, call.principal.roles)
    return _contexts.encode(
        _Context(
            principal,
            call.metadata,
            deadline,
            call.traceparent,
            call.idempotency_key,
        )
    )


def _checked(scope: Scope, given: str, value: str) -> tuple[str, str]:
    if scope.phase is not Phase.CALL:
        raise HostError("UNAVAILABLE", "there is no answer that it could be set for: the guest was not called")
    name = given.lower() if given.isascii() else given
    wrong = guest_fault(name, value)
    if wrong is not None:
        shown = repr(given[:80]) if wrong is Wrong.NAME else f"the header {name}"
        raise HostError("INVALID_PARAMETERS", f"{shown} {wrong.value}")
    return name, value


def _fitting(headers: list[tuple[str, str]], trailers: list[tuple[str, str]]) -> None:
    if not fit(headers, trailers):
        raise HostError(
            "LIMIT_EXCEEDED", f"an answer may have {MAX_PAIRS} headers and trailers of {MAX_BYTES} bytes together"
        )


class ContextCapability:
    name = "okra.context"

    def configure(self, _service: ServiceId, options: Mapping[str, Any]) -> ServiceContext:
        no_options(self.name, options)
        return ServiceContext()


class ServiceContext(Configured):
    """What the guests of one service know of a call is in its scope; here is what they set."""

    def set_header(self, scope: Scope, name: str, value: str) -> None:
        """Adds a header to the answer. HostError where it may not be one, or there is no answer."""
        pair = _checked(scope, name, value)
        _fitting([*scope.headers, pair], scope.trailers)
        scope.headers.append(pair)

    def set_trailer(self, scope: Scope, name: str, value: str) -> None:
        """Adds a trailer to the answer. HostError as of `set_header`."""
        pair = _checked(scope, name, value)
        _fitting(scope.headers, [*scope.trailers, pair])
        scope.trailers.append(pair)

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {"get": _get, "setHeader": self._set_header, "setTrailer": self._set_trailer}

    def _set_header(self, scope: Scope, parameters: bytes) -> bytes:
        sent = read(_pairs, parameters)
        self.set_header(scope, sent.name, sent.value)
        return b"null"

    def _set_trailer(self, scope: Scope, parameters: bytes) -> bytes:
        sent = read(_pairs, parameters)
        self.set_trailer(scope, sent.name, sent.value)
        return b"null"


def capability(_services: HostServices) -> ContextCapability:
    return ContextCapability()
