from __future__ import annotations

from insula.schema.protowire import block, number, text, varint


def test_bytes() -> None:
    assert varint(0) == b"\x00"
    assert varint(127) == b"\x7f"
    assert varint(300) == b"\xac\x02"
    assert number(1, 150) == b"\x08\x96\x01"
    assert text(2, "testing") == b"\x12\x07testing"
    assert block(3, b"\x08\x96\x01") == b"\x1a\x03\x08\x96\x01"
    assert number(34, 1) == b"\x90\x02\x01"
