"""A connection that has ended is freed at once, whatever happened on it: the garbage collector may not come for minutes."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from insula.edge.connection import Connection
from insula.edge.limits import ConnectionLimits
from tests.edge.conftest import until
from tests.edge.roads import post, roads

LIMITS = ConnectionLimits(keep_alive_timeout=30, linger=0.05)
GET = b"GET /read HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /do HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("lane", [False, True], ids=["ordinary road", "lane"])
@pytest.mark.parametrize("how", ["closes", "aborts"])
@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", b""),
        (post(), b"hello"),
        (post() * 3, b"hello"),
        (GET, b"\r\n\r\n"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (CHUNKED + b"5\r\nhel", b""),
        (post(b"trap"), b"trapped"),
        (post(b"later 1"), b"at last"),
        (post(b"later 30"), b""),
        (post(b"later 30") + post() + GET, b""),
        (post()[:-2], b""),
        (b"POST /do HT", b""),
        (b"\x16\x03\x01", b"400"),
        (post(b"big 90000", b"Accept-Encoding: gzip\r\n"), b"\r\n\r\n"),
        (b"GET /missing HTTP/1.0\r\n\r\n", b"404"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"HTTP/1.1"),
    ],
)
async def test_a_connection_leaves_nothing_for_the_collector(
    sent: bytes, answered: bytes, how: str, lane: bool
) -> None:
    async with roads(LIMITS) as here:
        road = here.both[lane]
        reader, writer = await road.connect()
        writer.write(sent)
        if answered:
            await reader.readuntil(answered)
        await until(lambda: road.listener.connections)
        [found] = road.listener._shared.live
        assert isinstance(found, Connection)
        gone = weakref.ref(found)
        del found
        for _ in range(5):
            await asyncio.sleep(0)  # what was sent is read
        if how == "closes":
            writer.close()
        else:
            writer.transport.abort()
        await until(lambda: gone() is None)
