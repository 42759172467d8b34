"""Content codings: bounded inflation of what comes in, negotiation and compression of what goes out.

One table holds every coding. Inflation never makes more than its limit, whatever the ratio, and data that ends early or
goes on after its end is refused. The codings' libraries are loaded at their first use.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from insula.errors import CallerError, Code, LimitError

#: Bytes that are inflated at a time.
_STEP = 65_536
#: Bytes of zstd that are fed at a time: each may become 32,000, and the limit is looked at only in between.
_ZSTD_STEP = 128
#: Members of a gzip body, or frames of a zstd body: each costs work, whatever it holds.
_MAX_MEMBERS = 16


class Coding(NamedTuple):
    """`inflate(data, limit)` -> at most `limit` bytes, else LimitError; `deflate(data)` -> smaller data, mostly."""

    inflate: Callable[[bytes, int], bytes]
    deflate: Callable[[bytes], bytes]


def _too_large(limit: int) -> LimitError:
    return LimitError(
        f"the body, once it is decompressed, is larger than limits.body_bytes allows, {limit} bytes",
        reason="body_bytes",
        hint="send less at once, or raise limits.body_bytes",
        status=413,
    )


def _malformed(name: str) -> CallerError:
    return CallerError(
        f"the body is not whole {name} data", hint="does content-encoding say what was done to the body?"
    )


def _inflate_zlib(data: bytes, limit: int, name: str, bits: int) -> bytes:
    out = bytearray()
    try:
        for _ in range(_MAX_MEMBERS):
            stream = zlib.decompressobj(bits)
            while not stream.eof:
                piece = stream.decompress(data, min(_STEP, limit + 1 - len(out)))
                out += piece
                if len(out) > limit:
                    raise _too_large(limit)
                data = stream.unconsumed_tail
                if not piece and not data and not stream.eof:
                    raise _malformed(name)
            data = stream.unused_data
            if not data:
                return bytes(out)
            if name != "gzip":
                break
    except zlib.error:
        raise _malformed(name) from None
    raise _malformed(name)


def _gunzip(data: bytes, limit: int) -> bytes:
    return _inflate_zlib(data, limit, "gzip", 31)


def _gzip(data: bytes) -> bytes:
    stream = zlib.compressobj(5, wbits=31)
    return stream.compress(data) + stream.flush()


def _undeflate(data: bytes, limit: int) -> bytes:
    # "deflate" is the zlib format; some clients send the bare stream
    return _inflate_zlib(data, limit, "deflate", 15 if data[:1] and data[0] & 0x0F == 8 else -15)


def _deflate(data: bytes) -> bytes:
    return zlib.compress(data, 5)


def _unzstd(data: bytes, limit: int) -> bytes:
    import zstandard

    out = bytearray()
    # frames that ask for more than 8 MiB of window are refused, as the specification of the coding has it
    machine = zstandard.ZstdDecompressor(max_window_size=8 << 20)
    try:
        for _ in range(_MAX_MEMBERS):
            stream = machine.decompressobj(write_size=_STEP)
            view = memoryview(data)
            fed = 0
            while not stream.eof and fed < len(data):
                piece = view[fed : fed + _ZSTD_STEP]
                out += stream.decompress(piece)
                fed += len(piece)
                if len(out) > limit:
                    raise _too_large(limit)
            if not stream.eof:
                raise _malformed("zstd")
            data = bytes(stream.unused_data) + bytes(view[fed:])
            if not data:
                return bytes(out)
    except zstandard.ZstdError:
        raise _malformed("zstd") from None
    raise _malformed("zstd")


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=3).compress(data)


def _unbrotli(data: bytes, limit: int) -> bytes:
    import brotli  # type: ignore[import-untyped]

    out = bytearray()
    stream = brotli.Decompressor()
    try:
        piece = data
        while not stream.is_finished():
            made = stream.process(piece, output_buffer_limit=_STEP)
            out += made
            if len(out) > limit:
                raise _too_large(limit)
            if not made and stream.can_accept_more_data() and not stream.is_finished():
                raise _malformed("br")
            piece = b""
    except brotli.error:
        raise _malformed("br") from None
    return bytes(out)


def _brotli(data: bytes) -> bytes:
    import brotli

    compressed: bytes = brotli.compress(data, quality=4)
    return compressed


#: Every coding, the one that we would rather send first.
CODINGS: dict[bytes, Coding] = {
    b"zstd": Coding(_unzstd, _zstd),
    b"br": Coding(_unbrotli, _brotli),
    b"gzip": Coding(_gunzip, _gzip),
    b"deflate": Coding(_undeflate, _deflate),
}
_NAMES = b", ".join(CODINGS)
_ALIASES = {b"x-gzip": b"gzip"}
#: Codings that a client may have applied one over the other.
_MAX_DEPTH = 2


def codings_of(content_encoding: bytes | None) -> list[bytes]:
    """The codings to undo, the outermost first; `unimplemented` (415) where one is not known here."""
    if not content_encoding:
        return []
    names = [name.strip().lower() for name in content_encoding.split(b",")]
    names = [_ALIASES.get(name, name) for name in names if name and name != b"identity"]
    for name in names:
        if name not in CODINGS:
            raise CallerError(
                f"the content encoding {name[:40].decode('latin-1')!r} is not known here",
                code=Code.UNIMPLEMENTED,
                status=415,
                hint=f"use one of {_NAMES.decode()}, or none",
            )
    if len(names) > _MAX_DEPTH:
        raise CallerError("the body is encoded too many times over", hint="encode it once")
    return names[::-1]


def is_slow(codings: list[bytes]) -> bool:
    """Whether these codings may take long to undo, however small the data: brotli fills a window of up to 16 MiB before it
    gives a first byte."""
    return b"br" in codings


def inflate(codings: list[bytes], data: bytes, limit: int) -> bytes:
    """The body without its codings. LimitError (413) beyond `limit` bytes, CallerError where it is not whole."""
    for name in codings:
        data = CODINGS[name].inflate(data, limit)
    return data


def _weights(accept_encoding: bytes) -> dict[bytes, float]:
    weights: dict[bytes, float] = {}
    for item in accept_encoding.lower().split(b",")[:32]:
        name, _, parameters = item.partition(b";")
        weight = 1.0
        for parameter in parameters.split(b";"):
            key, _, value = parameter.partition(b"=")
            if key.strip() == b"q":
                try:
                    weight = float(value.strip()[:8])
                except ValueError:
                    weight = 0.0
        name = name.strip()
        if name:
            weights[_ALIASES.get(name, name)] = weight
    return weights


def preferred(accept_encoding: bytes | None) -> bytes | None:
    """The coding that the client would rather have, of those it accepts; None for identity. Between codings of equal
    weight, ours decides; identity wins only where it weighs more than all."""
    if not accept_encoding:
        return None
    return _remembered(accept_encoding) if len(accept_encoding) <= 128 else _preferred(accept_encoding)


def _preferred(accept_encoding: bytes) -> bytes | None:
    weights = _weights(accept_encoding)
    rest = weights.get(b"*", 0.0)
    best = max(CODINGS, key=lambda name: weights.get(name, rest))
    weight = weights.get(best, rest)
    return best if 0.0 < weight >= weights.get(b"identity", 0.0) else None


_remembered = lru_cache(maxsize=128)(_preferred)
