"""Clients that end their half of the connection behind a request, and requests that the server itself holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from insula.edge.exchange import Response
from insula.edge.intake import Intake
from insula.edge.limits import ConnectionLimits
from tests.edge.conftest import answers, street, until
from tests.edge.test_fast_connection import connections

HALF = b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("lane", [False, True], ids=["ordinary road", "lane"])
async def test_a_client_that_has_no_more_to_say_gets_the_answer_that_comes_soon(lane: bool) -> None:
    async with street(lane=lane) as here:
        reader, writer = await here.connect()
        writer.write(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n" + HALF)
        writer.write_eof()
        await here.probe.asked.wait()
        await asyncio.sleep(0)
        here.probe.pending[0].set_result(Response(200, (), b"at last"))
        (first, *_), (status, headers, body) = answers(await reader.read())
        assert (first, status, headers[b"connection"], body) == (200, 200, b"close", b"at last")
        await until(lambda: not here.listener.connections)
        writer.close()


@pytest.mark.parametrize("lane", [False, True], ids=["ordinary road", "lane"])
async def test_an_answer_that_does_not_come_soon_is_not_waited_for(lane: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may be gone: that looks the same."""
    monkeypatch.setattr("insula.edge.connection.HEARD_OUT", 0.0)
    async with street(lane=lane) as here:
        reader, writer = await here.connect()
        writer.write(HALF)
        writer.write_eof()
        await here.probe.cancelled.wait()
        assert await reader.read() == b""
        writer.close()


class Closed(Intake):
    """No turn has time until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Callable[[], None]] = []

    def is_over(self, tenant: str, now: float) -> bool:
        return True

    def wait(self, tenant: str, begin: Callable[[], None]) -> None:
        self.waits.append(begin)


async def test_a_request_that_the_server_holds_is_not_its_clients_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither ended as silent nor lost to the end of its client's half, and it is counted."""
    monkeypatch.setattr("insula.edge.app.Intake", Closed)
    async with street(ConnectionLimits(first_byte_timeout=0.02, head_timeout=0.02, linger=0.3), lane=True) as here:
        held = here.app.intake
        assert isinstance(held, Closed)
        reader, writer = await here.connect()
        writer.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n" + b"x" * 10_000)
        writer.write_eof()
        await until(lambda: held.waits)
        unread = here.listener._shared.unread
        await until(lambda: unread.held >= 10_000)
        [connection] = connections(here)
        connection._read_clock._ring()  # as its timer does
        monkeypatch.setattr(Closed, "is_over", lambda *_: False)
        held.waits[0]()
        [(status, _, body)] = answers(await reader.read())
        assert (status, body) == (200, b"x" * 10_000)
        assert here.drops == {}
        assert unread.held == 0
        writer.close()


@pytest.mark.parametrize("lane", [False, True], ids=["ordinary road", "lane"])
@pytest.mark.parametrize("count", [2, 40, 200])
@pytest.mark.parametrize("at_once", [True, False])
async def test_all_that_came_before_the_end_is_answered(
    lane: bool, count: int, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what waits for a later turn: one turn answers some dozens of a connection, and begins what it has time for."""
    if not at_once:
        monkeypatch.setattr("insula.edge.intake.BUDGET", 0.0)
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    async with street(lane=lane) as here:
        clients = [await here.connect() for _ in range(20)]
        for _, writer in clients:
            writer.write(request * count)
            writer.write_eof()
        for reader, writer in clients:
            assert len(answers(await reader.read())) == count
            writer.close()


@pytest.mark.parametrize("lane", [False, True], ids=["ordinary road", "lane"])
async def test_what_comes_behind_a_late_answer_is_answered_too(lane: bool) -> None:
    request = b"POST /echo%b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    async with street(lane=lane) as here:
        reader, writer = await here.connect()
        writer.write(request % b"?later" + request % b"" * 5)
        writer.write_eof()
        await here.probe.asked.wait()
        here.probe.pending[0].set_result(Response(200, (), b"at last"))
        found = answers(await reader.read())
        assert [body for _, _, body in found] == [b"at last", *[b"hello"] * 5]
        writer.close()
