"""Header fields as HTTP allows them: what a guest or a handler may put on an answer.

A bad field from a guest must not tear the connection, split the answer in two or add a header of its own, so an answer is
checked whole before its first byte is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
#: Bytes that the fields of one answer may have together.
MAX_FIELDS = 65_536

#: What the edge alone says: how the message is framed, how long the connection lives, when it was made.
OWNED = frozenset(
    (
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-connection",
        b"server",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    )
)


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
