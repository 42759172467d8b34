"""Where a body is inflated: on the event loop only what is sure to be quick."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import pytest

from insula.edge.body import INLINE, inflate_body


@pytest.mark.parametrize(
    ("coding", "encode", "size", "inline"),
    [
        (b"gzip", gzip.compress, 1000, True),
        (b"gzip", gzip.compress, INLINE + 1, False),
        (b"br", brotli.compress, 1000, False),  # whose window is filled before there is a first byte
    ],
)
async def test_a_body_is_inflated_in_a_thread_where_it_may_take_long(
    coding: bytes, encode: Callable[[bytes], bytes], size: int, inline: bool
) -> None:
    threads = 0

    async def run(work: Callable[..., bytes], *arguments: object) -> bytes:
        nonlocal threads
        threads += 1
        return work(*arguments)

    assert await inflate_body([coding], encode(b"x" * size), 1 << 20, run) == b"x" * size
    assert (threads == 0) == inline
