"""The descriptor set that a package brings (service.pb.desc): whether it is one.

It is there for the tools that read it; the server makes its own from the schema, so that it never speaks by a stranger's
numbers. protobuf's reader holds the interpreter until it is done, 15 ms for 18,000 fields. So each message of a file is
read by itself, and the rest of the file after them.
"""

from __future__ import annotations

from collections.abc import Iterator

from insula.errors import PackageError
from insula.schema.protowire import read_varint

#: Numbers of fields in google/protobuf/descriptor.proto: FileDescriptorSet.file, FileDescriptorProto.message_type.
_FILE, _MESSAGE = 1, 4
_FIXED = {1: 8, 5: 4}


def check_descriptor(data: bytes, name: str) -> None:
    """PackageError, with the `name` of the package's file, where it is no FileDescriptorSet or has no file."""
    from protobuf.wkt import FileDescriptorProto

    named = False
    try:
        for number, _, file in _fields(data):
            if number != _FILE:
                continue
            rest = bytearray()
            for part, field, _ in _fields(file):
                if part == _MESSAGE:
                    FileDescriptorProto.from_binary(field)  # a file with this message alone
                else:
                    rest += field
            named = bool(FileDescriptorProto.from_binary(bytes(rest)).name) or named
    except (ValueError, RecursionError) as error:
        raise PackageError(
            f"{name} is not a protobuf FileDescriptorSet",
            hint="`insula build` writes it; build the package again",
        ) from error
    if not named:
        raise PackageError(f"{name} describes no protobuf file", hint="build the package again")


def _fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The number of each field of a message, the whole field, and its value where that is bytes. ValueError where the bytes
    are no message; groups, which a descriptor has none of, are not known here."""
    at, end = 0, len(data)
    while at < end:
        start, value = at, b""
        try:
            tag, at = read_varint(data, at)
            wire = tag & 7
            if wire == 0:
                _, at = read_varint(data, at)
            elif wire == 2:
                size, at = read_varint(data, at)
                value = data[at : at + size]
                at += size
            elif wire in _FIXED:
                at += _FIXED[wire]
            else:
                raise ValueError(f"a field of wire type {wire}")
        except IndexError:
            raise ValueError("a field that is cut off") from None
        if at > end or not tag >> 3:
            raise ValueError("a field that is cut off, or has no number")
        yield tag >> 3, data[start:at], value
