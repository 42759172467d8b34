"""The request id: taken from the client where it is sane, made here where it is not, returned on every answer."""

from __future__ import annotations

import os
import re

#: Letters, digits, dot, dash and underscore: nothing that could break a log line, a header or a page.
_SANE = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def new_request_id() -> str:
    """A fresh id of 32 hexadecimal digits."""
    return os.urandom(16).hex()


def request_id_of(sent: bytes | None) -> str:
    """The id that the client sent, or a fresh one where it sent none or none that is safe to repeat."""
    return sent.decode() if sent is not None and _SANE.fullmatch(sent) else new_request_id()
