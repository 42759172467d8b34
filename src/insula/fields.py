"""Header fields as HTTP allows them: what a handler may put on an answer, and what of that a guest may.

A bad field from a guest must not tear the connection, split the answer in two or add a header of its own, so an answer is
checked whole before its first byte is written. What a guest may set is decided here alone: the host function that takes a
field from a guest and the gateway that sends it ask the same rule, so that a field which is taken is sent.

Some names are not a guest's to set: those that frame the message or belong to the protocol or to one hop, those that say
how a browser treats the whole origin, which all services share (a cookie, a redirect, CORS, a security policy), and those
that this server answers with itself. A guest's names are tokens, its values printable ASCII without blanks at their ends;
a name that ends in `-bin` has a value in base64.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from enum import Enum

from insula.headers import EDGE_ONLY, RESERVED, RESERVED_PREFIXES, TRAILER

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
#: Bytes that the fields of one answer may have together.
MAX_FIELDS = 65_536

#: What the edge alone says.
OWNED = frozenset(name.encode() for name in EDGE_ONLY)


def is_name(name: bytes) -> bool:
    """Whether this is a token of HTTP."""
    return _NAME.fullmatch(name) is not None


def is_value(value: bytes) -> bool:
    """Whether this is a field value: no line break, no control character, no space at its ends."""
    return _VALUE.fullmatch(value) is not None and value == value.strip(b" \t")


def fault(fields: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What is wrong with the fields of an answer, naming the first bad one; None where nothing is. No value is told."""
    size = 0
    for name, value in fields:
        if not is_name(name):
            return f"the header name {name[:80]!r} is not one"
        if name.lower() in OWNED:
            return f"the header {name.decode()} is the server's own"
        if not is_value(value):
            return f"the value of the header {name.decode()} has characters that a header may not have"
        size += len(name) + len(value) + 4
        if size > MAX_FIELDS:
            return f"with the header {name[:80].decode()} its headers are larger than {MAX_FIELDS} bytes"
    return None


#: Of one call of a guest, headers and trailers together: how many, and how many bytes as they go over the wire.
MAX_PAIRS = 64
MAX_BYTES = 8192
#: Of one field of a guest.
MAX_NAME = 128
MAX_VALUE = 4096

_GUEST_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?|")


class Wrong(Enum):
    """Why a field is not a guest's to set."""

    NAME = "is not a header name"
    RESERVED = "is not a service's to set"
    VALUE = f"has a value that is not printable ASCII of at most {MAX_VALUE} characters without blanks at its ends"
    BASE64 = "ends in -bin, and its value is not base64"


def guest_fault(name: str, value: str) -> Wrong | None:
    """What is wrong with a field that a guest sets, as a header or as a trailer; None where nothing is. The name is lower
    case."""
    if not name.isascii() or len(name) > MAX_NAME or name != name.lower() or not is_name(name.encode()):
        return Wrong.NAME
    if name in RESERVED or name.startswith(RESERVED_PREFIXES):
        return Wrong.RESERVED
    if len(value) > MAX_VALUE or not _GUEST_VALUE.fullmatch(value):
        return Wrong.VALUE
    if name.endswith("-bin"):
        try:
            base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
        except (binascii.Error, ValueError):
            return Wrong.BASE64
    return None


def fit(headers: Iterable[tuple[str, str]], trailers: Iterable[tuple[str, str]]) -> bool:
    """Whether the fields of one call are few and small enough together, as they go over the wire."""
    sizes = [len(name) + len(value) + 4 for name, value in headers]
    sizes += [len(TRAILER) + len(name) + len(value) + 4 for name, value in trailers]
    return len(sizes) <= MAX_PAIRS and sum(sizes) <= MAX_BYTES
