"""Errors as Connect's unary protocol writes them: JSON, whatever the codec of the call.

`{"code", "message", "details": [{"type", "value", "debug"?}]}`, the value in standard base64 without padding. A reason
goes as `google.rpc.ErrorInfo`, which is what clients of this protocol look for. The status is the code's own in the one
table of `errors.py`, except where HTTP itself refuses (404, 405, 415).
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from insula.edge.exchange import HttpError, Response
from insula.errors import WIRE, Detail, InsulaError

JSON = (b"content-type", b"application/json")
_DOMAIN = b"insula"


def _error_info(reason: str) -> bytes:
    """`google.rpc.ErrorInfo`: reason = 1, domain = 2."""
    text = reason.encode()[:127]
    return b"\x0a" + bytes((len(text),)) + text + b"\x12" + bytes((len(_DOMAIN),)) + _DOMAIN


def _detail(detail: Detail) -> dict[str, Any]:
    return {"type": detail.type_name, "value": base64.b64encode(detail.value).rstrip(b"=").decode()}


def encode_error(error: InsulaError) -> bytes:
    """The JSON of an error."""
    body: dict[str, Any] = {"code": error.code.value, "message": str(error)}
    details = [_detail(detail) for detail in error.details]
    if error.reason:
        info = _detail(Detail("google.rpc.ErrorInfo", _error_info(error.reason)))
        info["debug"] = {"reason": error.reason, "domain": _DOMAIN.decode()}
        details.append(info)
    if details:
        body["details"] = details
    return msgspec.json.encode(body)


def error_response(error: InsulaError, metadata: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    """The answer that tells an error, `metadata` among its headers."""
    if isinstance(error, HttpError):
        return Response(error.http_status, (JSON, *error.fields, *metadata), encode_error(error))
    return Response(WIRE[error.code].http, (JSON, *metadata), encode_error(error))
