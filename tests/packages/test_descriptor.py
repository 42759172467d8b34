"""The descriptor set of a package, read a message at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protobuf.wkt import FileDescriptorSet

from insula.errors import PackageError
from insula.packages.descriptor import check_descriptor
from insula.schema.protowire import block, number, text

MESSAGE = text(1, "Thing") + block(2, text(1, "name") + number(3, 1) + number(5, 9))
FILE = text(1, "shop.proto") + text(2, "shop") + block(4, MESSAGE) * 3 + block(6, text(1, "Shop")) + text(12, "proto3")


def test_a_set_of_files() -> None:
    check_descriptor(block(1, FILE) + block(1, text(1, "other.proto")), "service.pb.desc")


def test_what_is_unknown_is_passed_over() -> None:
    check_descriptor(
        number(900, 1) + block(1, FILE + b"\xb9\x38" + b"\0" * 8 + b"\xbd\x38" + b"\0" * 4), "service.pb.desc"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        block(1, FILE)[:-1],
        block(1, FILE + block(4, b"\x0a\x05ab")),  # a message that is cut off
        block(1, FILE + block(4, text(1, "\x00")[:-1] + b"\xff")),  # a name that is no text
        block(1, FILE + b"\x0b\x0c"),  # a group
        block(1, FILE + b"\x00\x00"),  # a field without a number
        block(1, FILE + b"\x0d\x00"),
        b"\xff" * 40,
    ],
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(PackageError, match="is not a protobuf FileDescriptorSet"):
        check_descriptor(data, "service.pb.desc")


@pytest.mark.parametrize("data", [b"", block(1, b""), block(1, block(4, MESSAGE)), number(2, 1)])
def test_none_in_it(data: bytes) -> None:
    with pytest.raises(PackageError, match="describes no protobuf file"):
        check_descriptor(data, "service.pb.desc")


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda rest: block(1, FILE) + rest))
def test_the_whole_reader_says_the_same(data: bytes) -> None:
    """Where it takes what this one takes, and the other way round; groups apart, which descriptors have none of."""
    try:
        whole = any(file.name for file in FileDescriptorSet.from_binary(data).file)
    except ValueError:
        whole = False
    try:
        check_descriptor(data, "d")
        parts = True
    except PackageError:
        parts = False
    assert parts <= whole
