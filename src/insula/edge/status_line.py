"""The first lines of answers."""

from __future__ import annotations

from http import HTTPStatus


def _line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:  # a status that nobody has registered has no phrase
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES = {status: _line(status) for status in range(100, 600)}
