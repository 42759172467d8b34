"""Scalars as proto3 JSON writes them: the rules that a plain JSON type does not have.

Each function takes what stands in the JSON and answers what the guest and the client are given, or raises ValueError
whose text completes "expected …" for a person. `Number` is a JSON number as it was written, digits and all.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation

FLOAT32_MAX = 3.4028234663852886e38
INT32 = (-(2**31), 2**31 - 1)
INT64 = (-(2**63), 2**63 - 1)
EPOCH = "1970-01-01T00:00:00Z"
NON_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PLAIN_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


class Number(str):
    """A JSON number by its text."""

    __slots__ = ()


def read_integer(text: str, bounds: tuple[int, int]) -> int:
    """A whole number in bounds, from a JSON number or a string that holds one; `1.0` and `1e3` are whole numbers."""
    if _PLAIN_INTEGER.fullmatch(text):
        value = int(text)
    else:
        if len(text) > 64 or not _NUMBER.fullmatch(text):
            raise ValueError("a whole number")
        try:
            exact = Decimal(text)
        except InvalidOperation:
            raise ValueError("a whole number") from None
        # compared before it becomes an int: 1e999999999 is short to write and long to count
        if not bounds[0] <= exact <= bounds[1]:
            raise ValueError(f"a whole number of {32 if bounds == INT32 else 64} bits")
        if exact != exact.to_integral_value():
            raise ValueError("a whole number")
        value = int(exact)
    if not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"a whole number of {32 if bounds == INT32 else 64} bits")
    return value


def read_int64(value: int | str) -> int:
    """A Long, as a number or as the string that proto3 JSON sends."""
    return value if isinstance(value, int) else read_integer(value, INT64)


def write_int64(value: int | str) -> str:
    """A Long as proto3 JSON sends it: a string, so that no reader rounds it past 2^53."""
    return str(read_int64(value))


def read_float(text: str, largest: float | None) -> float | str:
    """A number, from a JSON number or a string; `NaN`, `Infinity` and `-Infinity` stay the strings that they are."""
    if not isinstance(text, Number) and text in NON_FINITE:
        return str(text)
    if not _NUMBER.fullmatch(text):
        raise ValueError("a number")
    value = float(text)
    if value in (float("inf"), float("-inf")) or (largest is not None and not -largest <= value <= largest):
        raise ValueError("a number in range")
    return value


def read_bytes(text: str) -> str:
    """Base64 of either alphabet, padded or not -> the standard alphabet with padding."""
    try:
        raw = text.encode("ascii").translate(_URL_SAFE)
        body = raw.rstrip(b"=")
        padding = -len(body) % 4
        if padding == 3 or len(raw) - len(body) not in (0, padding):
            raise ValueError("base64 text")
        return base64.b64encode(binascii.a2b_base64(body + b"=" * padding, strict_mode=True)).decode("ascii")
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("base64 text") from None


def read_timestamp(text: str) -> str:
    """RFC 3339 with any offset -> in UTC with `Z` and 0, 3, 6 or 9 digits, all of its nanoseconds kept.

    Years 0001 to 9999, also once the offset is taken off. Seconds end at 59, as protobuf has no leap seconds.
    """
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError("an RFC 3339 timestamp, like 2026-05-29T08:35:13.7Z")
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second))  # noqa: DTZ001
        if sign is not None:
            if int(offset_hours) > 23 or int(offset_minutes) > 59:
                raise ValueError
            offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
            moment = moment - offset if sign == "+" else moment + offset
    except (ValueError, OverflowError):
        raise ValueError("a timestamp that exists, in the years 0001 to 9999") from None
    digits = (fraction or "").rstrip("0")
    if digits:
        digits = "." + digits.ljust(-(-len(digits) // 3) * 3, "0")
    return f"{moment.isoformat()}{digits}Z"
