"""Errors as the admin port writes them: `{"error", "code", "message", "hint", "reason"?}`, where `error` is the message
again."""

from __future__ import annotations

import math

import msgspec

from insula.api.models import Error
from insula.edge.answers import CutOffError
from insula.edge.exchange import Head, HttpError, Response
from insula.errors import InsulaError

JSON = (b"content-type", b"application/json")


def error_body(error: InsulaError) -> bytes:
    """The JSON of a refusal; `reason` only where there is one."""
    hint = error.hint
    if isinstance(error, CutOffError):
        hint = "what was asked for may have been done: look once it is up again, with `insula list`"
    return msgspec.json.encode(
        Error(error.message, error.code.value, error.message, hint, error.reason or msgspec.UNSET)
    )


def error_headers(error: InsulaError) -> tuple[tuple[bytes, bytes], ...]:
    """Headers that belong to a refusal."""
    headers = [(b"cache-control", b"no-store")]
    if error.http_status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="insula admin"'))
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    if isinstance(error, HttpError):
        headers.extend(error.fields)
    return tuple(headers)


def refuse(_: Head, error: InsulaError) -> Response:
    """The answer that tells an error."""
    return Response(error.http_status, (JSON, *error_headers(error)), error_body(error))
