"""The request id: taken from the client where it is sane, made here where it is not, returned on every answer."""

from __future__ import annotations

import os
import re

#: Letters, digits, dot, dash and underscore: nothing that could break a log line, a header or a page.
_SANE = re.compile(rb"[A-Za-z0-9._-]{1,128}")


#: Ids that are made at once: one call to the system for each of them would cost more than the rest.
_BATCH = 128
_ready: list[str] = []


def new_request_id() -> str:
    """A fresh id of 32 hexadecimal digits."""
    try:
        return _ready.pop()
    except IndexError:
        digits = os.urandom(16 * _BATCH).hex()
        _ready.extend(digits[at : at + 32] for at in range(32, len(digits), 32))
        return digits[:32]


def sane_id(sent: bytes | None) -> str:
    """The id that the client sent, or "" where it sent none or none that is safe to repeat."""
    return sent.decode() if sent is not None and _SANE.fullmatch(sent) else ""


def request_id_of(sent: bytes | None) -> str:
    """The id that the client sent, or a fresh one where that is not to be repeated."""
    return sane_id(sent) or new_request_id()
