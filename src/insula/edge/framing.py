"""The framing of a request, by its head: where the message ends, and whether the connection changes its protocol.

What two readers may understand in two ways is refused. The parser has refused the rest: malformed lines, lengths that are
no numbers, a length beside a transfer coding.
"""

from __future__ import annotations

from typing import NamedTuple

import httptools

from insula.edge.last_words import Last
from insula.headers import NOT_IN_TRAILERS as _NOT_IN_TRAILERS

#: What a trailer may not say.
NOT_IN_TRAILERS = frozenset(name.encode() for name in _NOT_IN_TRAILERS)


class Framing(NamedTuple):
    """`length` of the body, -1 if the head has none. `upgrade` is the protocol that the head offers to change to, lower
    case; such a head is `bodiless` where nothing but the other protocol may follow it."""

    length: int
    upgrade: bytes | None
    bodiless: bool


def framing_of(version: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> Framing | Last:
    """The framing of a head with lower-case names, or the answer that refuses it."""
    if version not in ("1.1", "1.0"):
        return Last.VERSION
    hosts = 0
    coding = upgrade = None
    length = -1
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            coding = value if coding is None else coding + b"," + value  # several lines are one list (RFC 9110, 5.3)
        elif name == b"upgrade":
            upgrade = value
        elif name == b"content-length":
            length = int(value)  # the parser has seen to it that these are digits that fit 64 bits
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        return Last.HOST
    if not _is_target(target):
        return Last.MALFORMED
    if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
        return Last.TRANSFER_CODING if _is_chunked_last(coding) else Last.MALFORMED
    return Framing(length, None if upgrade is None else upgrade.lower(), length <= 0 and coding is None)


def _is_chunked_last(coding: bytes) -> bool:
    """Whether a list of transfer codings has chunked in its last place, or not at all: what this server does not speak.
    Anything else has an end that two readers find in two places."""
    return b"chunked" not in [each.strip(b" \t").lower() for each in coding.split(b",")[:-1]]


def _is_target(target: bytes) -> bool:
    """Whether the target names a path, which CONNECT's does not."""
    try:
        return target.isascii() and httptools.parse_url(target).path is not None
    except httptools.HttpParserInvalidURLError:
        return False
