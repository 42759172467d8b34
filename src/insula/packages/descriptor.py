"""The descriptor set that a package brings (service.pb.desc): whether it is one.

It is there for the tools that read it; the server makes its own from the schema, so that it never speaks by a stranger's
numbers. protobuf's reader holds the interpreter until it is done, 25 ms for 16,000 messages that are empty. So it gets a
set in pieces, each of them whole fields of one message within its place in the set. A message that is larger than a piece
is walked field by field here, where others may have the interpreter; its fields are checked in pieces, or walked as well.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from insula.errors import PackageError
from insula.schema.protowire import block, read_varint

if TYPE_CHECKING:
    from protobuf import DescMessage

#: Bytes that protobuf's reader gets at most in one call, those around them apart.
PIECE = 4096

#: How many fields are walked in one set.
FIELDS = 500_000

#: How deep protobuf's reader goes.
_DEPTH = 100

#: FileDescriptorProto.name, as a tag.
_NAME = 1 << 3 | 2
_FIXED = {1: 8, 5: 4}


def check_descriptor(data: bytes, name: str) -> None:
    """PackageError, with the `name` of the package's file, where it is no FileDescriptorSet or has no file."""
    from protobuf.wkt import FileDescriptorSet

    walk = _Walk(data, name)
    try:
        walk.message(0, len(data), FileDescriptorSet.desc(), ())
    except (ValueError, RecursionError) as error:
        raise PackageError(
            f"{name} is not a protobuf FileDescriptorSet",
            hint="`insula build` writes it; build the package again",
        ) from error
    if not walk.named:
        raise PackageError(f"{name} describes no protobuf file", hint="build the package again")


class _Walk:
    """Through one set. `path` has the numbers of the fields that lead to a message. ValueError and RecursionError say that
    the bytes are no set, as protobuf's reader does."""

    def __init__(self, data: bytes, name: str) -> None:
        self.named = False
        self._data = data
        self._name = name
        self._left = FIELDS

    def message(self, at: int, end: int, desc: DescMessage, path: tuple[int, ...]) -> None:
        """Checks the message between two places."""
        if len(path) > _DEPTH:
            raise RecursionError("a message that is too deep")
        is_file, named, run = len(path) == 1, False, at
        while at < end:
            tag, value, after = self._field(at, end, len(path))
            if is_file and tag == _NAME:
                named = after > value
            if after - at > PIECE:
                self._read(run, at, path)
                self._large(tag, value, after, desc, path)
                run = after
            elif after - run > PIECE:
                self._read(run, at, path)
                run = at
            at = after
        self._read(run, end, path)
        self.named = self.named or named

    def _read(self, at: int, end: int, path: tuple[int, ...]) -> None:
        if at < end:
            self._give(self._data[at:end], path)

    def _give(self, piece: bytes, path: tuple[int, ...]) -> None:
        """Gives whole fields of a message to protobuf's reader."""
        from protobuf.wkt import FileDescriptorSet

        for number in reversed(path):
            piece = block(number, piece)
        files = FileDescriptorSet.from_binary(piece).file
        if not path:
            self.named = self.named or any(file.name for file in files)

    def _large(self, tag: int, value: int, after: int, desc: DescMessage, path: tuple[int, ...]) -> None:
        """Checks a field that is no piece. What is unknown, or a group, was gone through to its end."""
        from protobuf import DescFieldValueList, DescFieldValueMessage, DescFieldValueScalar, DescMessage, ScalarType

        number = tag >> 3
        field = next((field for field in desc.fields if field.number == number), None)
        if tag & 7 != 2 or field is None:
            return
        kind: object = field.value
        if isinstance(kind, DescFieldValueMessage):
            kind = kind.message
        elif isinstance(kind, DescFieldValueScalar):
            kind = kind.scalar
        many = isinstance(kind, DescFieldValueList)
        if isinstance(kind, DescFieldValueList):
            kind = kind.element
        if isinstance(kind, DescMessage):
            self.message(value, after, kind, (*path, number))
        elif kind is ScalarType.STRING:
            self._text(value, after)
        elif many and kind is not ScalarType.BYTES:
            self._numbers(value, after, (*path, number))

    def _text(self, at: int, end: int) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(at, end, PIECE):
            decoder.decode(self._data[start : min(start + PIECE, end)], start + PIECE >= end)

    def _numbers(self, at: int, end: int, path: tuple[int, ...]) -> None:
        """Checks varints in one block: in a descriptor there are no others."""
        while at < end:
            cut = least = min(at + PIECE, end)
            while cut < end and self._data[cut - 1] > 127:
                cut += 1
                if cut - least > 10:
                    raise ValueError("a number of more than 64 bits")
            self._give(self._data[at:cut], path)
            at = cut

    def _field(self, at: int, end: int, depth: int) -> tuple[int, int, int]:
        """The tag of the field at a place, and where its value begins, if it is a block, and where it ends. A group ends
        with its end, however many fields are in it."""
        data, groups, first, value = self._data, [0], 0, at
        try:
            while True:
                if not self._left:
                    raise PackageError(f"{self._name} has too many fields; at most {FIELDS} are gone through")
                self._left -= 1
                start = at
                tag, at = read_varint(data, at)
                if (tag < 8 and not first) or tag >> 32 or at - start > 5:  # 0 is taken in a group
                    raise ValueError("a field without a number that may be")
                first = first or tag
                wire = tag & 7
                if wire == 2:
                    size, at = read_varint(data, at)
                    value = at
                    at += size
                elif wire == 0:
                    number, at = read_varint(data, at)
                    if number >> 64:
                        raise ValueError("a number of more than 64 bits")
                elif wire in _FIXED:
                    at += _FIXED[wire]
                elif wire == 3:
                    groups.append(tag >> 3)
                    if depth + len(groups) - 1 > _DEPTH:
                        raise RecursionError("a group that is too deep")
                elif wire != 4 or groups.pop() != tag >> 3:
                    raise ValueError("an end of another group, or of none, or a field of no wire type")
                if at > end:
                    raise ValueError("a field that is cut off")
                if len(groups) == 1:
                    return first, value, at
        except IndexError:
            raise ValueError("a field that is cut off") from None
