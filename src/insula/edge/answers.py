"""What both roads of the edge do with an answer: make it of an error, check it, and say what the edge adds to it.

An answer is checked whole before its first byte is written, so that no guest can tear a connection with a header. What goes
wrong in a handler becomes a whole 500 in the protocol's own shape, and the log has the rest under the request id.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import NamedTuple

from insula.edge.compression import CODINGS, preferred
from insula.edge.exchange import Head, Response, Route
from insula.edge.rest import refusal
from insula.errors import Code, GuestError, InsulaError, UnavailableError, forget_frames
from insula.fields import fault

_log = logging.getLogger("insula.edge")

#: A body of an answer is compressed from this size on, and in a thread from the second.
COMPRESSED_FROM = 1024
THREAD_FROM = 65_536
#: Statuses whose answer has no body.
BODILESS = (204, 304)

_COMPRESSIBLE = (
    b"text/",
    b"application/json",
    b"application/proto",
    b"application/problem+json",
    b"application/javascript",
    b"application/xml",
    b"application/openmetrics-text",
    b"image/svg+xml",
)
#: Fields of an answer that are remembered once they were checked: what a service answers has the same few each time.
_REMEMBERED = 4


class CutOffError(UnavailableError):
    """The server stops, and the grace of this request is over."""

    def __init__(self) -> None:
        super().__init__("the server stopped before there was an answer", retry_after=1.0)


class Fields(NamedTuple):
    """What is known of the fields of an answer: what is `wrong` with them, if anything; whether a body beside them is
    worth compressing; and they themselves as they go over the wire."""

    wrong: str | None
    compressible: bool
    wire: bytes


def fields_of(headers: tuple[tuple[bytes, bytes], ...]) -> Fields:
    """The fields of an answer, checked."""
    return _remembered(headers) if len(headers) <= _REMEMBERED else _read(headers)


def _read(headers: tuple[tuple[bytes, bytes], ...]) -> Fields:
    wrong = fault(headers)
    if wrong is not None:
        return Fields(wrong, False, b"")
    return Fields(None, _may_compress(headers), wire(headers))


_remembered = lru_cache(maxsize=128)(_read)


def wire(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Fields as lines."""
    return b"".join([b"%b: %b\r\n" % (name.lower(), value) for name, value in headers])


def _may_compress(headers: tuple[tuple[bytes, bytes], ...]) -> bool:
    kind = b""
    for name, value in headers:
        if name == b"content-encoding" or (name == b"cache-control" and b"no-transform" in value):
            return False
        if name == b"content-type":
            kind = value.lower()
    return kind.startswith(_COMPRESSIBLE)


def checked(head: Head, route: Route, response: Response) -> Response:
    """The answer, or a whole 500 in its place where it cannot be sent. TypeError for a body that is no bytes, as the lane
    meets with where it writes an answer that it need not check."""
    if not isinstance(response.body, bytes | bytearray | memoryview):
        raise TypeError(f"{route.label} answered {type(response.body).__name__} as the body, not bytes")
    wrong = fields_of(response.headers).wrong
    if wrong is None:
        if 200 <= response.status <= 599:
            return response
        wrong = f"its status {response.status} is not one of an answer"
    _log.error("%s gave an answer that cannot be sent: %s (request %s)", route.label, wrong, head.request_id)
    return _refused(head, route, GuestError("the service gave an answer that cannot be sent"))


def failed(head: Head, route: Route, error: Exception) -> Response:
    """What a request gets that ended in an error: a refusal, or a failure of this server, which the log tells."""
    if not isinstance(error, InsulaError):
        _log.error("%s failed (request %s)", route.label, head.request_id, exc_info=error)
        forget_frames(error)
        error = InsulaError("the server failed to answer", hint="the server's log has more under the request id")
    forget_frames(error)
    return _refused(head, route, error)


def _refused(head: Head, route: Route, error: InsulaError) -> Response:
    """The error in the shape of the route's protocol, with the headers that HTTP asks for beside it, unless that has its
    own."""
    try:
        response = route.handler.refuse(head, error)
    except Exception:
        _log.exception("%s could not tell an error (request %s)", route.label, head.request_id)
        response = refusal(head, InsulaError("the server failed to answer"))
    wrong = fault(response.headers)
    if wrong is not None:
        _log.error("%s gave an error that cannot be sent: %s (request %s)", route.label, wrong, head.request_id)
        response = refusal(head, GuestError("the service gave an answer that cannot be sent"))
    extra: list[tuple[bytes, bytes]] = []
    said = {name for name, _ in response.headers}
    if error.retry_after is not None and b"retry-after" not in said:
        extra.append((b"retry-after", b"%d" % max(1, round(error.retry_after))))
    if error.code is Code.UNAUTHENTICATED and response.status == 401 and b"www-authenticate" not in said:
        extra.append((b"www-authenticate", b"Bearer"))
    return Response(response.status, (*response.headers, *extra), response.body) if extra else response


def negotiated(head: Head, response: Response) -> tuple[bool, bytes | None]:
    """Whether the answer depends on what codings the client takes, and the one that its body gets."""
    if (
        len(response.body) < COMPRESSED_FROM
        or response.status in BODILESS
        or not fields_of(response.headers).compressible
    ):
        return False, None
    return True, preferred(head.get(b"accept-encoding"))


def finished(
    head: Head, response: Response, varies: bool, coding: bytes | None
) -> tuple[tuple[tuple[bytes, bytes], ...], bytes]:
    """The fields that rules and the edge add to an answer, and its body as it goes out. Compresses here and now."""
    added: list[tuple[bytes, bytes]] = [*head.fields, (b"vary", b"accept-encoding")] if varies else [*head.fields]
    body = b"" if response.status in BODILESS else response.body
    if coding is not None:
        smaller = CODINGS[coding].deflate(body)
        if len(smaller) < len(body):
            body = smaller
            added.append((b"content-encoding", coding))
    if response.status not in BODILESS:
        added.append((b"content-length", b"%d" % len(body)))
    added.append((b"x-request-id", head.request_id.encode()))
    return tuple(added), body
