"""Codings: bombs, cut-off and overlong data, negotiation; every coding undoes itself."""

from __future__ import annotations

import gzip
import threading
import time
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from insula.edge.compression import CODINGS, codings_of, inflate, preferred
from insula.errors import CallerError, LimitError

NAMES = list(CODINGS)


def _bare_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@given(st.sampled_from(NAMES), st.binary(max_size=5000))
def test_every_coding_undoes_itself(name: bytes, data: bytes) -> None:
    assert inflate([name], CODINGS[name].deflate(data), 5000) == data


@given(st.sampled_from(NAMES), st.binary(max_size=300))
def test_what_is_no_coding_is_refused_and_nothing_else(name: bytes, data: bytes) -> None:
    try:
        assert len(inflate([name], data, 1000)) <= 1000
    except (CallerError, LimitError):
        pass


@pytest.mark.parametrize("name", NAMES)
def test_a_body_of_exactly_the_limit_passes(name: bytes) -> None:
    data = CODINGS[name].deflate(b"x" * 70_000)
    assert len(inflate([name], data, 70_000)) == 70_000
    with pytest.raises(LimitError, match="69999 bytes"):
        inflate([name], data, 69_999)


@pytest.mark.parametrize("name", NAMES)
def test_a_bomb_stops_at_the_limit(name: bytes) -> None:
    bomb = CODINGS[name].deflate(b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    with pytest.raises(LimitError) as raised:
        inflate([name], bomb, 1_000_000)
    assert raised.value.http_status == 413


def test_a_bomb_in_a_bomb_stops_at_the_limit() -> None:
    bomb = gzip.compress(gzip.compress(b"\0" * 50_000_000))
    with pytest.raises(LimitError):
        inflate([b"gzip", b"gzip"], bomb, 1_000_000)


@pytest.mark.parametrize("name", NAMES)
def test_cut_off_data_is_refused(name: bytes) -> None:
    data = CODINGS[name].deflate(b"hello world, " * 100 + bytes(range(256)))
    for end in (1, 5, len(data) // 2, len(data) - 1):
        with pytest.raises(CallerError, match="not whole"):
            inflate([name], data[:end], 10_000)


@pytest.mark.parametrize("name", NAMES)
def test_data_after_the_end_is_refused(name: bytes) -> None:
    with pytest.raises(CallerError, match="not whole"):
        inflate([name], CODINGS[name].deflate(b"hello") + b"rest", 10_000)


@pytest.mark.parametrize("encode", [gzip.compress, zstandard.compress])
def test_members_one_after_the_other_are_one_body_and_bounded(encode: Callable[[bytes], bytes]) -> None:
    name = b"gzip" if encode is gzip.compress else b"zstd"
    assert inflate([name], encode(b"one ") + encode(b"two"), 100) == b"one two"
    with pytest.raises(CallerError, match="not whole"):
        inflate([name], encode(b"") * 17, 100)


def test_a_bare_deflate_stream_is_taken() -> None:
    assert inflate([b"deflate"], _bare_deflate(b"hello"), 100) == b"hello"


def test_a_window_that_is_too_large_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=25, enable_ldm=True)
    data = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(CallerError, match="not whole"):
        inflate([b"zstd"], data.compress(b"x" * 100) + data.flush(), 1000)


def test_brotli_is_read_in_small_steps() -> None:
    assert inflate([b"br"], brotli.compress(b"x" * 1_000_000), 1_000_000) == b"x" * 1_000_000


def test_codings_are_undone_in_the_right_order() -> None:
    assert codings_of(b"gzip, BR") == [b"br", b"gzip"]
    assert codings_of(b"identity") == []
    assert codings_of(b"x-gzip, identity, ") == [b"gzip"]
    with pytest.raises(CallerError, match="too many"):
        codings_of(b"gzip, gzip, gzip")
    with pytest.raises(CallerError, match="compress"):
        codings_of(b"compress")


@given(st.binary(max_size=60))
def test_any_accept_encoding_gives_a_known_coding_or_none(header: bytes) -> None:
    assert preferred(header) in (None, *NAMES)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, None),
        (b"", None),
        (b"gzip", b"gzip"),
        (b"gzip;q=0.5,br;q=0.6", b"br"),
        (b"GZIP ; Q=1", b"gzip"),
        (b"gzip;q=0", None),
        (b"*;q=0.1", b"zstd"),
        (b"zstd;q=0, *", b"br"),
        (b"gzip;q=nonsense", None),
        (b"identity;q=0.5, gzip;q=0.4", None),
    ],
)
def test_weights(header: bytes | None, coding: bytes | None) -> None:
    assert preferred(header) == coding


@pytest.mark.parametrize("name", CODINGS)
def test_the_interpreter_is_not_held_meanwhile(name: bytes) -> None:
    """A thread that codes or decodes megabytes lets the others run: the longest that this one waits is a part of it. The
    bound is far from what is seen (a tenth and less) and from one call that holds it (all)."""
    coding = CODINGS[name]
    text = b"".join(b'{"name": "n%d", "value": %d},' % (n, n * n % 997) for n in range(200_000))[: 4 << 20]
    packed = coding.deflate(text)

    def longest(work: Callable[[], bytes]) -> float:
        """The longest wait of this thread, as a part of the time that the work took."""
        done = threading.Event()

        def run() -> None:
            work()
            done.set()

        thread = threading.Thread(target=run)
        gap, began = 0.0, time.perf_counter()
        last = began
        thread.start()
        while not done.is_set():
            now = time.perf_counter()
            gap, last = max(gap, now - last), now
        gap = max(gap, time.perf_counter() - last)
        thread.join()
        return gap / (last - began) if last > began else 1.0

    for work in (lambda: coding.deflate(text), lambda: coding.inflate(packed, len(text))):
        assert any(longest(work) < 0.7 for _ in range(5))
