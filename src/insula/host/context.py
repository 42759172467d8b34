"""`okra.context`: what a guest may know of the call that it works for, and the metadata that it answers with.

`get {}` -> `{principal: {subject, roles} | null, metadata: [[name, value]], deadline (RFC 3339), traceparent,
idempotencyKey}`. `setHeader {name, value}` and `setTrailer {name, value}` -> null; a name may be set more than once, and
each adds a pair.

What a guest may set is checked here, since a bad header would break the connection of whoever asked, and some names are
not a guest's to set: those that frame the message or belong to the protocol or to one hop, those that say how a browser
treats the whole origin, which all services share (a cookie, a redirect, CORS, a security policy), and those that this
server answers with itself. Names are tokens, values printable ASCII without blanks at their ends; a name that ends in
`-bin` has a value in base64. All of one call together: `MAX_PAIRS` pairs and `MAX_BYTES` bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from insula.calls import Headers, ServiceId
from insula.host.contract import HostError, Operation, Scope
from insula.host.options import no_options
from insula.host.parameters import read
from insula.host.services import HostServices

MAX_PAIRS = 64
MAX_NAME = 128
MAX_VALUE = 4096
MAX_BYTES = 8192

_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?|")
_RESERVED = frozenset(
    (
        # framing, and what belongs to one hop
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"),
        *("content-type", "content-encoding", "content-range", "accept-encoding", "accept-post", "accept-ranges"),
        *("date", "server", "via", "age", "allow", "status", "vary", "cookie", "authorization", "http2-settings"),
        # the origin's, not one service's
        *("set-cookie", "location", "refresh", "alt-svc", "clear-site-data", "www-authenticate", "link", "origin"),
        *("strict-transport-security", "service-worker-allowed", "public-key-pins", "content-location"),
        *("x-frame-options", "x-content-type-options", "x-xss-protection", "referrer-policy", "permissions-policy"),
        *("nel", "report-to", "reporting-endpoints", "sourcemap", "x-sourcemap", "x-dns-prefetch-control"),
        *("x-request-id", "traceparent", "tracestate", "user-agent", "retry-after"),
    )
)
_RESERVED_PREFIXES = (
    *("connect-", "grpc-", "trailer-", "proxy-", "access-control-", "content-security-policy", "cross-origin-"),
    *("sec-", "x-forwarded-", "x-accel-", "x-sendfile", "insula-"),
)


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
    deadline = datetime.fromtimestamp(time.time() + call.remaining(), UTC)
    principal = None if call.principal is None else _Principal(call.principal.subject, call.principal.roles)
    return _contexts.encode(
        _Context(
            principal,
            call.metadata,
            deadline.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            call.traceparent,
            call.idempotency_key,
        )
    )


def _set_header(scope: Scope, parameters: bytes) -> bytes:
    _add(scope, scope.headers, read(_pairs, parameters))
    return b"null"


def _set_trailer(scope: Scope, parameters: bytes) -> bytes:
    _add(scope, scope.trailers, read(_pairs, parameters))
    return b"null"


def _add(scope: Scope, target: list[tuple[str, str]], pair: _Pair) -> None:
    name = pair.name.lower()
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise HostError("INVALID_PARAMETERS", f"{pair.name[:80]!r} is not a header name")
    if name in _RESERVED or name.startswith(_RESERVED_PREFIXES):
        raise HostError("INVALID_PARAMETERS", f"the header {name} is not a service's to set")
    if len(pair.value) > MAX_VALUE or not _VALUE.fullmatch(pair.value):
        raise HostError(
            "INVALID_PARAMETERS",
            f"the value of {name} is not printable ASCII of at most {MAX_VALUE} characters without blanks at its ends",
        )
    if name.endswith("-bin"):
        _check_base64(name, pair.value)
    used = sum(len(key) + len(value) for key, value in (*scope.headers, *scope.trailers))
    if len(scope.headers) + len(scope.trailers) >= MAX_PAIRS or used + len(name) + len(pair.value) > MAX_BYTES:
        raise HostError(
            "LIMIT_EXCEEDED", f"an answer may have {MAX_PAIRS} headers and trailers of {MAX_BYTES} bytes together"
        )
    target.append((name, pair.value))


def _check_base64(name: str, value: str) -> None:
    try:
        base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise HostError("INVALID_PARAMETERS", f"the value of {name} must be base64, as its name ends in -bin") from None


class ContextCapability:
    name = "okra.context"

    def configure(self, _service: ServiceId, options: Mapping[str, Any]) -> Mapping[str, Operation]:
        no_options(self.name, options)
        return {"get": _get, "setHeader": _set_header, "setTrailer": _set_trailer}


def capability(_services: HostServices) -> ContextCapability:
    return ContextCapability()
