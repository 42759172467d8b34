"""A gzip stream, inflated piece by piece and never further than its limits.

The packed bytes, the inflated bytes and their ratio are counted while they pass, so that a bomb is refused at the limit
and not after it. One gzip member is a package: a second one, or anything but zero padding behind the first, is refused,
since readers disagree about it. (A few tools pad what they write to a pipe with zeros; that is let through.)
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import BinaryIO

from insula.errors import PackageError
from insula.packages.deployable import MB

_PIECE = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What one archive may hold. Sizes in bytes; `ratio` (inflated to packed) is looked at from `ratio_from` inflated
    bytes on, since small texts may well shrink a hundredfold; `header` bounds one extended header of the tar."""

    packed: int = 128 * MB
    inflated: int = 256 * MB
    ratio: int = 100
    ratio_from: int = 8 * MB
    entries: int = 2000
    header: int = 256 * 1024
    name: int = 512
    depth: int = 16


def too_large(message: str, hint: str | None = None) -> PackageError:
    """The refusal for a limit on size: HTTP 413."""
    return PackageError(message, hint=hint, status=413)


def size(count: int) -> str:
    """`262144` -> `256 KiB`, for messages."""
    for unit, name in ((1 << 30, "GiB"), (MB, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} bytes"


class Inflater:
    """Reads the inside of one gzip file. Blocking; belongs to one thread."""

    def __init__(self, stream: BinaryIO, limits: ArchiveLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._zlib = zlib.decompressobj(wbits=31)
        self._packed = 0
        self._inflated = 0
        self._ready = bytearray()
        self._ended = False

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, fewer only at the end; PackageError for a bad, cut off or overlong stream."""
        while len(self._ready) < count and not self._ended:
            self._more()
        piece = bytes(self._ready[:count])
        del self._ready[:count]
        return piece

    def _more(self) -> None:
        packed = self._zlib.unconsumed_tail or self._next_packed()
        try:
            piece = self._zlib.decompress(packed, _PIECE)
        except zlib.error as error:
            raise PackageError(
                "the package is damaged: its gzip stream cannot be inflated", hint="build or copy it again"
            ) from error
        if not packed and not piece:  # zlib may hold inflated bytes back after the last packed ones: not yet its end
            raise PackageError(
                "the package is cut off: its gzip stream ends too early" if self._packed else "the package is empty",
                hint="it may have been copied or uploaded only in part; send it again",
            )
        self._inflated += len(piece)
        limits = self._limits
        if self._inflated > limits.inflated:
            raise too_large(f"the package inflates to more than {size(limits.inflated)}")
        if self._inflated > limits.ratio_from and self._inflated > limits.ratio * self._packed:
            raise too_large(
                f"the package inflates to more than {limits.ratio} times its size",
                hint="no compiled service packs that tightly; is it padded?",
            )
        self._ready += piece
        if self._zlib.eof:
            self._ended = True
            self._end()

    def _next_packed(self) -> bytes:
        first = not self._packed
        packed = self._stream.read(_PIECE)
        self._packed += len(packed)
        if self._packed > self._limits.packed:
            raise too_large(f"the package is larger than {size(self._limits.packed)}")
        if first and packed and not packed.startswith(_GZIP_MAGIC):
            raise PackageError("the package is not a gzip file", hint=_what_it_is(packed))
        return packed

    def _end(self) -> None:
        rest = self._zlib.unused_data
        while rest:
            if rest.startswith(_GZIP_MAGIC):
                raise PackageError(
                    "the package is more than one gzip stream, one behind the other", hint="pack it as one: tar -czf"
                )
            if rest.strip(b"\0"):
                raise PackageError(
                    "the package goes on behind the end of its gzip stream", hint="copy it again, or pack it again"
                )
            rest = self._next_packed()


def _what_it_is(start: bytes) -> str:
    """A guess at what somebody sent instead, from the first bytes."""
    if start.startswith(b"PK"):
        return "it is a zip; an .okra.pkg is a gzip tar: tar -czf"
    if start.startswith(b"\0asm"):
        return "it is a bare WebAssembly module; `insula build` packs one into an .okra.pkg"
    if start[257:262] == b"ustar":
        return "it is a tar without gzip; pack it with tar -czf"
    if start.startswith((b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")):
        return "it is packed by another method; an .okra.pkg is a gzip tar: tar -czf"
    if start.lstrip()[:1] in (b"<", b"{"):
        return "it looks like a web page or JSON: was an error page saved instead of the package?"
    return "an .okra.pkg is a gzip tar, as `insula build` writes it"
