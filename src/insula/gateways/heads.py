"""What the head of a request says of the call that it begins, whichever protocol it has: metadata, trace, key, deadline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from insula.calls import Headers
from insula.errors import CallerError
from insula.gateways.metadata import to_guest

_MILLISECONDS = re.compile(rb"[0-9]{1,10}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


class CallHead(NamedTuple):
    """The part of a call that follows from the head of its request."""

    metadata: Headers
    traceparent: str
    idempotency_key: str


def first_of_each(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The first value of each name."""
    return dict(reversed(headers))


def call_head(headers: list[tuple[bytes, bytes]], sent: Mapping[bytes, bytes]) -> CallHead:
    """What a call has from its head; `sent` are `first_of_each` of it. A trace that is none is left out; CallerError for an
    Idempotency-Key that is none."""
    key = sent.get(b"idempotency-key", b"")
    if key and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise CallerError("Idempotency-Key is longer than 255 characters, or has some that a key may not have")
    trace = sent.get(b"traceparent")
    return CallHead(to_guest(headers), trace.decode() if trace and _TRACEPARENT.fullmatch(trace) else "", key.decode())


def milliseconds(value: bytes) -> int | None:
    """A time of at most ten digits, in ms; None where it is none."""
    return int(value) if _MILLISECONDS.fullmatch(value) else None


def timeout_ms(value: bytes | None, longest: float, name: str) -> float:
    """Seconds that a call may take: what the header `name` asks for in ms, and never more than `longest`. CallerError where
    that is no time."""
    if value is None:
        return longest
    asked = milliseconds(value)
    if asked is None:
        raise CallerError(f"{name} is not a number of at most ten digits")
    return min(longest, asked / 1000)
