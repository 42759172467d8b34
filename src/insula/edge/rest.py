"""Answers and errors in the REST shape of the public port."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from insula.edge.exchange import Head, HttpError, Response
from insula.errors import InsulaError

JSON = (b"content-type", b"application/json")


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON; never cached, as it says what is true now."""
    return Response(status, (JSON, (b"cache-control", b"no-store")), msgspec.json.encode(value))


def refusal(head: Head, error: InsulaError) -> Response:
    """`{"error": {"code", "reason"?, "message", "hint"?, "details"?, "request_id"}}`."""
    body: dict[str, Any] = {"code": error.code.value}
    if error.reason:
        body["reason"] = error.reason
    body["message"] = error.message
    if error.hint:
        body["hint"] = error.hint
    if error.details:
        body["details"] = [
            {"type": detail.type_name, "value": base64.b64encode(detail.value).decode()} for detail in error.details
        ]
    body["request_id"] = head.request_id
    headers = error.fields if isinstance(error, HttpError) else ()
    return Response(error.http_status, (JSON, *headers), msgspec.json.encode({"error": body}))
