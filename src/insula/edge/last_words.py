"""The whole answers that a listener gives by itself: what could not be read as a request, or came too late, or is one too
many. They are bytes, made without the application, and the connection ends after them.

Each has the shape of every other error of the public port, and a request id of its own.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from http import HTTPStatus

import msgspec

from insula.edge.request_id import new_request_id
from insula.errors import Code


class Last(enum.Enum):
    """Why a connection ends with an answer: the reason in metrics, the status, the code, the message."""

    MALFORMED = ("malformed", 400, Code.INVALID_ARGUMENT, "this is not a well-formed HTTP/1.1 request")
    HOST = ("malformed", 400, Code.INVALID_ARGUMENT, "an HTTP/1.1 request has exactly one Host header")
    UPGRADE = ("upgrade", 400, Code.INVALID_ARGUMENT, "this server does not change to that protocol here")
    HEAD_TIMEOUT = ("head_timeout", 408, Code.DEADLINE_EXCEEDED, "the head of the request did not come in time")
    BODY_TIMEOUT = ("body_timeout", 408, Code.DEADLINE_EXCEEDED, "the body of the request did not come in time")
    TARGET_TOO_LONG = ("target_too_long", 414, Code.RESOURCE_EXHAUSTED, "the request target is too long")
    HEAD_TOO_LARGE = ("head_too_large", 431, Code.RESOURCE_EXHAUSTED, "the head of the request is too large")
    TRANSFER_CODING = ("malformed", 501, Code.UNIMPLEMENTED, "chunked is the only transfer coding of this server")
    INTERNAL = ("internal", 500, Code.INTERNAL, "the server failed to read the request")
    FULL = (
        *("full", 503, Code.UNAVAILABLE),
        "all connections of this port are in use (limits.max_connections; of the admin port limits.max_admin_connections)",
    )
    AHEAD = (
        *("sent_ahead", 503, Code.UNAVAILABLE),
        "the server holds as much of unanswered requests as it can (limits.held_mb)",
    )
    VERSION = ("version", 505, Code.UNIMPLEMENTED, "this server speaks HTTP/1.1 and HTTP/1.0")

    def __init__(self, reason: str, status: int, code: Code, message: str) -> None:
        self.reason = reason
        self.status = status
        self.code = code
        self.message = message

    def encode(self, fields: Iterable[tuple[bytes, bytes]] = (), request_id: str = "") -> bytes:
        """The whole answer, `fields` (the date) among its headers. It has an id of its own, unless the log has one."""
        request_id = request_id or new_request_id()
        error = {"code": self.code.value, "message": self.message, "request_id": request_id}
        body = msgspec.json.encode({"error": error})
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in fields]
        lines += [
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"x-request-id: " + request_id.encode(),
            b"connection: close",
        ]
        if self.status == 503:
            lines.append(b"retry-after: 1")
        return b"\r\n".join([*lines, b"", body])


def _frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, 0)) + bytes(4) + payload


#: What a client that begins with HTTP/2 is told in HTTP/2: an empty SETTINGS, then GOAWAY with HTTP_1_1_REQUIRED (13).
HTTP_1_1_REQUIRED = _frame(4, b"") + _frame(7, bytes(4) + (13).to_bytes(4, "big") + b"speak HTTP/1.1 to this port")
