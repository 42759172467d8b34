"""The entries of a tar that a stranger wrote: ustar, PAX and GNU long names, and nothing that a package does not need.

Own code rather than `tarfile`, which reads extended headers whole, however long they say they are, and follows rules
(sparse maps, links, odd numbers) that only widen what an attacker may try. This reader holds one header block and one
bounded extended header at a time. What it refuses: a wrong checksum, sizes that are not plain numbers, sparse files,
extended headers beyond their limit, an archive without its end marker, and anything but zeros behind that marker.
Which names and kinds of entry are welcome is decided one file further up, in `archive.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from insula.errors import PackageError
from insula.packages.gzipped import ArchiveLimits, size, too_large

BLOCK = 512
_PIECE = 1 << 16
_ZEROS = bytes(BLOCK)
_OCTAL = re.compile(rb"[0-7]+")
_DECIMAL = re.compile(rb"[0-9]{1,19}")


class Source(Protocol):
    """What a tar is read from."""

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, fewer only at the end."""


class Entry:
    """One entry. `kind` is the type flag as a letter (`0` a file, `5` a folder); `chunks` gives the content once."""

    __slots__ = ("_left", "_padding", "_source", "kind", "name", "size")

    def __init__(self, name: str, kind: str, size: int, source: Source) -> None:
        self.name = name
        self.kind = kind
        self.size = size
        self._source = source
        self._left = size
        self._padding = -size % BLOCK

    def chunks(self) -> Iterator[bytes]:
        """The content in pieces of at most 64 KiB."""
        while self._left:
            piece = _exactly(self._source, min(self._left, _PIECE))
            self._left -= len(piece)
            yield piece
        _exactly(self._source, self._padding)
        self._padding = 0


def entries(source: Source, limits: ArchiveLimits) -> Iterator[Entry]:
    """Each entry in turn; content that was not asked for is skipped. PackageError for whatever is not a plain tar."""
    extended: dict[str, bytes] = {}
    count = 0
    while (block := _exactly(source, BLOCK)) != _ZEROS:
        count += 1
        if count > limits.entries:
            raise PackageError(
                f"the package holds more than {limits.entries} entries", hint="pack the service's own files alone"
            )
        kind, length = _header(block)
        entry = Entry("", kind, length, source)
        if kind in ("x", "g", "L", "K"):
            _extend(extended, kind, _whole(entry, limits))
            continue
        if any(key.startswith(("GNU.sparse.", "SCHILY.realsize")) for key in extended):
            raise PackageError("the package holds a sparse file", hint="pack it without --sparse")
        if "size" in extended:
            entry = Entry("", kind, _decimal(extended["size"]), source)
        entry.name = _text(extended.get("path") or _header_name(block), limits)
        if kind in ("\0", "0"):
            entry.kind = "5" if entry.name.endswith("/") else "0"
        extended = {}
        yield entry
        for _ in entry.chunks():
            pass
    if extended:
        raise PackageError("the package is damaged: a long name stands in it without its file")
    while rest := source.read(_PIECE):
        if rest.strip(b"\0"):
            raise PackageError(
                "the package goes on behind the end of its archive", hint="were two archives joined? Pack it as one"
            )


def _exactly(source: Source, count: int) -> bytes:
    data = source.read(count) if count else b""
    if len(data) != count:
        raise PackageError(
            "the package is cut off: its archive ends too early", hint="build it again, or copy it again"
        )
    return data


def _header(block: bytes) -> tuple[str, int]:
    """Type flag and size, once the checksum is right (summed as either kind of byte, as old tars did)."""
    expected = _octal(block[148:156])
    counted = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(counted)
    if expected not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in counted)):
        raise PackageError("the package is damaged: an entry's checksum is wrong", hint="is it a gzip tar at all?")
    return chr(block[156]), _octal(block[124:136])


def _octal(field: bytes) -> int:
    if field[0] == 0x80:  # GNU: big-endian binary
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if text and not _OCTAL.fullmatch(text):
        raise PackageError(
            "the package is damaged: a number in its archive is not one", hint="is it a gzip tar at all?"
        )
    return int(text, 8) if text else 0


def _decimal(text: bytes) -> int:
    if not _DECIMAL.fullmatch(text):
        raise PackageError("the package is damaged: a number in its archive is not one")
    return int(text)


def _header_name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _text(name: bytes, limits: ArchiveLimits) -> str:
    if len(name) > limits.name:
        raise PackageError(f"the package holds a name of more than {limits.name} bytes")
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PackageError("the package holds a name that is not UTF-8") from error


def _whole(entry: Entry, limits: ArchiveLimits) -> bytes:
    if entry.size > limits.header:
        raise too_large(f"the package holds an extended header of more than {size(limits.header)}")
    return b"".join(entry.chunks())


def _extend(extended: dict[str, bytes], kind: str, body: bytes) -> None:
    if kind == "L":
        extended["path"] = body.rstrip(b"\0")
    elif kind == "x":
        extended.update(_pax(body))
    elif kind == "g" and not {"path", "size"}.isdisjoint(_pax(body)):
        raise PackageError("the package gives all of its entries one name or size")


def _pax(body: bytes) -> dict[str, bytes]:
    """The records `LENGTH key=value\\n` of an extended header."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(body) and body[at]:
        space = body.find(b" ", at, at + 8)
        length = _decimal(body[at:space]) if space > 0 else 0
        record = body[space + 1 : at + length]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or at + length > len(body):
            raise PackageError("the package is damaged: an extended header of its archive is not one")
        records[key.decode("utf-8", "replace")] = value
        at += length
    return records
