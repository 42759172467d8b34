"""What a JSON text holds, before anything is decoded: how many values, how deep, and whether it is UTF-8.

Everything here works on the bytes, by operations that run in C. A text is reduced to its marks, the brackets and commas
outside of strings. Its values follow from their number. Its depth is how many times `[]` can be taken out of the marks
until none is left. The exact answers hold for JSON; what is not JSON may be called too deep or too much.
"""

from __future__ import annotations

import re

#: Levels of objects and lists in a JSON text: a hundred messages, the limit of protobuf, each in a list.
MAX_DEPTH = 200

_ALL = bytes(range(256))
_NO_MARKS = bytes(byte for byte in _ALL if byte not in b'[]{},"')
_NO_BEGINNINGS = bytes(byte for byte in _ALL if byte not in b"[{,")
_NO_OPENING = bytes(byte for byte in _ALL if byte not in b"[{")
_NUMBERS = bytes.maketrans(b"E123456789.+-", b"e000000000000")
_DIGITS = b"0" * 40
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
#: A string, also one that never ends: so every byte is looked at once, whatever the text is.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)


def marks_of(text: bytes) -> bytes:
    """The brackets and commas of a JSON text that stand outside of its strings."""
    if b"\\" in text:
        # a run of backslashes in a string is pairs, and at most one that escapes what follows
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # What is between two quotes now is an empty string, or nothing but a colon between two strings: either may go.
    marks = text.translate(None, _NO_MARKS).replace(b'""', b"")
    return _STRINGS.sub(b"", marks) if b'"' in marks else marks


def opening(text: bytes) -> int:
    """The number of opening brackets in a text, those in strings too: it nests no deeper."""
    return len(text.translate(None, _NO_OPENING))


def beginnings(text: bytes) -> bytes:
    """The bytes of a text that a value may stand behind: opening brackets and commas, those in strings too."""
    return text.translate(None, _NO_BEGINNINGS)


def long_numbers(text: bytes) -> int:
    """At least the number of numbers in a text that have an exponent, or more than 40 digits."""
    numbers = text.translate(_NUMBERS)
    return numbers.count(b"0e0") + numbers.count(_DIGITS)


def most_values(text: bytes) -> int:
    """At least the number of values in a JSON text: each but the first stands behind a comma or an opening bracket."""
    return 1 + len(beginnings(text))


def count_values(text: bytes, marks: bytes) -> int:
    """The number of values in a JSON text: of list items and of members of objects, and the text itself."""
    bare = _STRINGS.sub(b"0", text).translate(None, b" \t\r\n")
    return most_values(marks) - bare.count(b"[]") - bare.count(b"{}")


def exceeds(text: bytes, marks: bytes, most: int) -> bool:
    """True if a JSON text has more than `most` values. The full count is needed only if many brackets are empty."""
    return marks.count(b",") >= most or count_values(text, marks) > most


def too_deep(marks: bytes, work: int | None = None) -> bool | None:
    """True if the marks nest deeper than MAX_DEPTH. None where telling takes a look at more than `work` bytes."""
    level = marks.translate(_ONE_KIND, b",")
    if level.count(b"[") <= MAX_DEPTH:
        return False
    for _ in range(MAX_DEPTH):
        if work is not None:
            work -= len(level)
            if work < 0:
                return None
        inside = level.replace(b"[]", b"")
        if not inside:
            return False
        if len(inside) == len(level):  # not JSON: some brackets have no other
            return level.count(b"[") > MAX_DEPTH
        level = inside
    return True


def bad_utf8(text: bytes) -> int | None:
    """The place of the first byte that is not UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None
