"""Errors as the admin port writes them: `{"error", "code", "message", "hint"}`, where `error` is the message again."""

from __future__ import annotations

import math

import msgspec

from insula.errors import InsulaError


def error_body(error: InsulaError) -> bytes:
    """The JSON of a refusal; `reason` only where there is one."""
    body: dict[str, object] = {
        "error": error.message,
        "code": error.code.value,
        "message": error.message,
        "hint": error.hint,
    }
    if error.reason:
        body["reason"] = error.reason
    return msgspec.json.encode(body)


def error_headers(error: InsulaError) -> dict[str, str]:
    """Headers that belong to a refusal."""
    headers = {"cache-control": "no-store"}
    if error.http_status == 401:
        headers["www-authenticate"] = 'Bearer realm="insula admin"'
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return headers
