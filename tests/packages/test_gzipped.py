from __future__ import annotations

import gzip
import io
import os
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.errors import PackageError
from insula.packages.deployable import MB
from insula.packages.gzipped import ArchiveLimits, Inflater, size


def inflate(data: bytes, limits: ArchiveLimits | None = None, piece: int = 1 << 16) -> bytes:
    inflater = Inflater(io.BytesIO(data), limits or ArchiveLimits())
    out = b""
    while chunk := inflater.read(piece):
        out += chunk
    return out


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_gives_back_what_was_packed(data: bytes, piece: int) -> None:
    assert inflate(gzip.compress(data), piece=piece) == data


def test_large_and_incompressible() -> None:
    data = os.urandom(300_000) + bytes(700_000)
    assert inflate(gzip.compress(data)) == data


@pytest.mark.parametrize(
    ("data", "said", "hint"),
    [
        (b"", "the package is empty", "in part"),
        (b"PK\x03\x04rest", "not a gzip file", "zip"),
        (b"\0asm\x01\0\0\0", "not a gzip file", "bare WebAssembly"),
        (b"<html>", "not a gzip file", "web page"),
        (b"\x28\xb5\x2f\xfd....", "not a gzip file", "another method"),
        (bytes(257) + b"ustar" + bytes(300), "not a gzip file", "without gzip"),
        (b"\x1f\x8b\x08\x00garbage-that-is-no-deflate", "damaged", ""),
        (gzip.compress(b"a" * 5000)[:-9], "cut off", "in part"),
        (gzip.compress(b"a" * 5000)[:-1], "cut off", "in part"),
        (gzip.compress(b"one") + gzip.compress(b"two"), "more than one gzip stream", "tar -czf"),
        (gzip.compress(b"one") + b"garbage", "behind the end", ""),
        (gzip.compress(b"one") + bytes(512) + b"x", "behind the end", ""),
    ],
)
def test_refuses(data: bytes, said: str, hint: str) -> None:
    with pytest.raises(PackageError, match=said) as refused:
        inflate(data)
    assert hint in (refused.value.hint or "")


def test_a_wrong_checksum_is_damage() -> None:
    data = bytearray(gzip.compress(b"hello" * 100))
    data[-6] ^= 1
    with pytest.raises(PackageError, match="damaged"):
        inflate(bytes(data))


def test_zero_padding_behind_the_end_is_what_pipes_get() -> None:
    assert inflate(gzip.compress(b"one") + bytes(100_000)) == b"one"


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    deflate = zlib.compressobj(9, wbits=31)
    bomb = b"".join(deflate.compress(bytes(MB)) for _ in range(60)) + deflate.flush()
    tracemalloc.start()
    try:
        with pytest.raises(PackageError, match="100 times its size") as refused:
            inflate(bomb)
        assert tracemalloc.get_traced_memory()[1] < 32 * MB
    finally:
        tracemalloc.stop()
    assert refused.value.http_status == 413


def test_the_inflated_and_the_packed_size_are_bounded() -> None:
    data = gzip.compress(os.urandom(200_000))
    with pytest.raises(PackageError, match=r"inflates to more than 97\.66 KiB") as refused:
        inflate(data, ArchiveLimits(inflated=100_000))
    assert refused.value.http_status == 413
    with pytest.raises(PackageError, match="larger than 1000 bytes"):
        inflate(data, ArchiveLimits(packed=1000))


@settings(max_examples=150)
@given(st.binary(min_size=1, max_size=400), st.data())
def test_mutated_streams_raise_nothing_else(data: bytes, draw: st.DataObject) -> None:
    packed = bytearray(gzip.compress(data))
    for _ in range(draw.draw(st.integers(1, 4))):
        packed[draw.draw(st.integers(0, len(packed) - 1))] = draw.draw(st.integers(0, 255))
    try:
        inflate(bytes(packed))
    except PackageError:
        pass


def test_sizes_read_well() -> None:
    assert [size(n) for n in (5, 2048, 3 * MB, 1 << 30)] == ["5 bytes", "2 KiB", "3 MiB", "1 GiB"]
