"""What becomes of a body that is given up, and where one is inflated: on the event loop only what is sure to be quick."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest

from insula.edge.backlog import Backlog
from insula.edge.body import INLINE, inflate_body, read_body
from insula.errors import UnavailableError


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


class Holding:
    """Another holder of the backlog."""

    def give_up(self) -> None:
        raise AssertionError("the body is older")


async def test_a_body_that_was_given_up_is_not_chosen_again_while_more_of_it_comes() -> None:
    """Its task is woken by the next part in the very turn in which it is told, and the cancellation reaches it later."""
    backlog = Backlog(100)
    parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def part(size: int) -> None:
        parts.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": True})

    part(60)
    reading = asyncio.create_task(read_body(parts.get, 1000, backlog))
    await asyncio.sleep(0)
    assert backlog.held == 60
    part(10)  # its task goes on in the next turn
    others = Holding(), Holding()
    backlog.hold(others[0], 50)
    await asyncio.sleep(0)
    assert backlog.held == 50
    backlog.hold(others[1], 50)
    assert backlog.held == 100
    with pytest.raises(UnavailableError):
        await reading
    assert backlog.held == 100


async def test_a_body_that_is_told_twice_to_give_up_is_refused_once(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []

    class Kept(Backlog):
        def hold(self, holder: Any, size: int, tenant: str = "") -> None:
            told.append(holder)
            super().hold(holder, size, tenant)

    parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    parts.put_nowait({"type": "http.request", "body": b"x", "more_body": True})
    reading = asyncio.create_task(read_body(parts.get, 1000, Kept(100)))
    await asyncio.sleep(0)
    for _ in range(2):
        told[0].give_up()
        await asyncio.sleep(0)  # the cancellation is under way
    with pytest.raises(UnavailableError):
        await reading
    assert caplog.text == ""
