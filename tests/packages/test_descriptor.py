"""The descriptor set of a package, read in pieces."""

from __future__ import annotations

import itertools

import protobuf.wkt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from protobuf.wkt import FileDescriptorSet

from insula.errors import PackageError
from insula.packages import descriptor
from insula.packages.descriptor import PIECE, check_descriptor
from insula.schema.protowire import block, number, text, varint

MESSAGE = text(1, "Thing") + block(2, text(1, "name") + number(3, 1) + number(5, 9))
FILE = text(1, "shop.proto") + text(2, "shop") + block(4, MESSAGE) * 3 + block(6, text(1, "Shop")) + text(12, "proto3")

LARGE = PIECE * 4


def group(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 3) + value + varint(field << 3 | 4)


def nested(depth: int, much: bytes) -> bytes:
    """A message in a file, with `much` at each depth."""
    value = b""
    for _ in range(depth):
        value = much + block(3, value)
    return block(4, value)


def test_a_set_of_files() -> None:
    check_descriptor(block(1, FILE) + block(1, text(1, "other.proto")), "service.pb.desc")


@pytest.mark.parametrize("much", [1, 1000])
@pytest.mark.parametrize(
    "unknown",
    [
        number(900, 1),
        b"\xb9\x38" + b"\0" * 8,
        b"\xbd\x38" + b"\0" * 4,
        block(900, b"\xff" * 8),
        b"\x0b\x0c",
        group(900, number(1, 1) + group(2, text(3, "x")) + block(4, b"\xff")),
        group(900, group(2, b"\x0d" + b"\xff" * 4)),
        group(900, b"\x00\x00"),
        number(2**29 - 1, 2**64 - 1),
    ],
)
def test_what_is_unknown_is_passed_over(unknown: bytes, much: int) -> None:
    for more in (unknown * much, block(900, unknown * much), group(900, unknown * much)):
        check_descriptor(more + block(1, FILE + more + block(4, MESSAGE + more)), "service.pb.desc")


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        block(1, FILE)[:-1],
        block(1, FILE + block(4, b"\x0a\x05ab")),  # a message that is cut off
        block(1, FILE + block(4, text(1, "\x00")[:-1] + b"\xff")),  # a name that is no text
        block(1, FILE + b"\x0b\x14"),  # a group that another one ends
        block(1, FILE + b"\x0b"),
        block(1, FILE + b"\x0c"),
        block(1, FILE + b"\x0f"),
        block(1, FILE + b"\x80\x80\x80\x80\x10\x00"),  # field number 2**29
        block(1, FILE + b"\xb8\x38" + b"\xff" * 9 + b"\x02"),  # 2**64 and more
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


@pytest.mark.parametrize(
    "wrong",
    [
        group(900, b"\x07" * LARGE),
        group(900, number(1, 1) * LARGE + b"\x0c"),
        group(900, number(1, 1) * LARGE)[:-1] + b"\x0c",
        group(900, number(1, 1) * LARGE)[:-2],
        group(900, number(1, 1) * LARGE + number(2, 2**64)),
        group(900, number(1, 1) * LARGE + b"\x80\x80\x80\x80\x10\x00"),
        varint(2**29 << 3 | 2) + varint(LARGE) + b"\0" * LARGE,
        block(900, b"\0" * LARGE)[:-1],
        block(2, b"a" * LARGE + b"\xff"),  # text that is none
        block(2, b"a" * LARGE + "é".encode()[:1]),
        block(4, block(1, b"a" * LARGE + b"\xff")),
        block(4, MESSAGE * LARGE + b"\x0a\x05ab"),
        block(9, block(1, block(1, b"\1" * LARGE + b"\x81"))),  # a path of numbers that is cut off
        block(9, block(1, block(1, b"\xff" * LARGE + b"\x01"))),
        nested(99, text(1, "n") * (LARGE // 64)),
        group(900, number(1, 1) * LARGE + b"".join([b"\x0b"] * 101 + [b"\x0c"] * 101)),
    ],
    ids=itertools.count(),
)
def test_what_is_none_in_what_is_large(wrong: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        FileDescriptorSet.from_binary(block(1, FILE + wrong))
    with pytest.raises(PackageError, match="is not a protobuf FileDescriptorSet"):
        check_descriptor(block(1, FILE + wrong), "service.pb.desc")


@pytest.mark.parametrize(
    "large",
    [
        block(4, block(2, text(1, "field")) * LARGE),
        block(4, block(3, block(2, text(1, "field")) * LARGE) * 2),
        block(5, block(2, text(1, "value") + number(2, 0)) * LARGE),
        block(6, block(2, text(1, "method")) * LARGE),
        block(9, block(1, block(1, b"\4\0\2\1") + block(2, b"\1\2\3")) * LARGE),
        block(9, block(1, block(1, b"\4\x80\1" * LARGE))),
        block(5, text(1, "Enum")) * LARGE,
        block(4, MESSAGE) * LARGE,
        block(8, block(999, block(3, b"x")) * LARGE),
        block(4, block(2, block(8, block(19, b"\1" * LARGE)))),
        text(2, "é" * LARGE),
        nested(98, text(1, "n") * (LARGE // 64)),
        group(900, number(1, 1) * LARGE),
    ],
    ids=itertools.count(),
)
def test_no_call_of_the_whole_reader_gets_much(large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    class Reader:
        desc = FileDescriptorSet.desc

        @staticmethod
        def from_binary(data: bytes) -> FileDescriptorSet:
            given.append(len(data))
            return FileDescriptorSet.from_binary(data)

    data = block(1, FILE + large)
    assert FileDescriptorSet.from_binary(data).file
    monkeypatch.setattr(protobuf.wkt, "FileDescriptorSet", Reader)
    check_descriptor(data, "service.pb.desc")
    assert max(given) <= PIECE + 500, "a piece, and the messages that it stands in"


@pytest.mark.parametrize(
    "many", [block(1, b""), block(1, FILE + block(4, b"") * 5000), block(1, FILE + group(900, number(1, 1) * 5000))]
)
def test_no_more_fields_are_walked_than_that(many: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptor, "FIELDS", 3000)
    with pytest.raises(PackageError, match=r"service.pb.desc has too many fields; at most 3000"):
        check_descriptor(many * 5000 if len(many) < 9 else many, "service.pb.desc")


#: Fields of a set, of files, of messages and of what is in them: right ones and wrong ones, one within the other.
NUMBERS = st.integers(1, 12) | st.sampled_from([19, 900, 999, 2**29 - 1, 2**29])
LEAVES = (
    st.builds(number, NUMBERS, st.integers(0, 9) | st.sampled_from([2**64 - 1, 2**64]))
    | st.builds(block, NUMBERS, st.binary(max_size=30) | st.text(max_size=20).map(str.encode))
    | st.builds(lambda field: varint(field << 3 | 5) + b"\xff" * 4, NUMBERS)
)
FIELDS = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda made, field, values: made(field, b"".join(values)),
        st.sampled_from([block, block, block, group]),
        NUMBERS,
        st.lists(inner, max_size=8),
    ),
    max_leaves=30,
)
SETS = st.builds(
    lambda named, fields: block(1, named + b"".join(fields)),
    st.sampled_from([FILE, text(1, "a"), b""]),
    st.lists(FIELDS, max_size=5),
)
CUT = st.builds(lambda data, at, with_: data[:at] + with_ + data[at + 1 :], SETS, st.integers(0, 90), st.binary())


@given(
    st.binary(max_size=60)
    | st.binary(max_size=40).map(lambda rest: block(1, FILE) + rest)
    | st.lists(SETS | LEAVES, max_size=3).map(b"".join)
    | CUT,
    st.sampled_from([1, 8, 32, PIECE]),
)
@example(block(1, text(1, "a") + block(4, MESSAGE) * 9 + text(1, "")), 8)
@example(block(1, text(1, "")) + block(1, text(1, "a") + block(4, MESSAGE) * 9), 8)
def test_the_whole_reader_says_the_same(data: bytes, piece: int) -> None:
    """However small the pieces are."""
    try:
        whole = any(file.name for file in FileDescriptorSet.from_binary(data).file)
    except (ValueError, RecursionError):
        whole = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(descriptor, "PIECE", piece)
        try:
            check_descriptor(data, "d")
            parts = True
        except PackageError:
            parts = False
    assert parts == whole
