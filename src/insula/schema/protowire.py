"""Protobuf's wire format: the few lines of it that a descriptor and a count of fields need.

A descriptor is made whenever a package is read, also while the server starts; loading a protobuf library for it would
cost more than the start may take in all.
"""

from __future__ import annotations


def varint(value: int) -> bytes:
    """A non-negative number, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """An integer, enum or bool field."""
    return varint(field << 3) + varint(value)


def block(field: int, value: bytes) -> bytes:
    """A bytes or message field."""
    return varint(field << 3 | 2) + varint(len(value)) + value


def text(field: int, value: str) -> bytes:
    """A string field."""
    return block(field, value.encode())


def read_varint(body: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. IndexError where it does not."""
    byte = body[at]
    at += 1
    if byte < 128:
        return byte, at
    value = byte & 127
    for shift in range(7, 70, 7):
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise IndexError
