"""What slow clients hold has a sum, and whoever has held on for longest pays."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from insula.edge.backlog import Backlog
from insula.edge.exchange import Response
from insula.edge.limits import Limits
from tests.edge.conftest import Street, answers, street, until

MB = 1 << 20


def holds(here: Street, size: int) -> bool:
    return here.app.backlog.held >= size


def dropped(here: Street, number: int) -> bool:
    return here.drops.get("slow_reader", 0) == number


def asked(here: Street, number: int) -> bool:
    return len(here.probe.pending) == number


class Holding:
    def __init__(self) -> None:
        self.gave_up = 0

    def give_up(self) -> None:
        self.gave_up += 1


def test_the_oldest_gives_up_until_the_rest_fits() -> None:
    backlog = Backlog(100)
    first, second, third = Holding(), Holding(), Holding()
    backlog.hold(first, 40)
    backlog.hold(second, 40)
    backlog.hold(first, 60)  # grows, and keeps its age
    assert (backlog.held, first.gave_up, second.gave_up) == (100, 0, 0)
    backlog.hold(third, 100)
    assert (backlog.held, first.gave_up, second.gave_up, third.gave_up) == (100, 1, 1, 0)
    backlog.release(first)  # has nothing any more
    backlog.release(third)
    assert backlog.held == 0


def test_one_alone_may_have_what_its_own_bound_allows() -> None:
    backlog = Backlog(100)
    alone = Holding()
    backlog.hold(alone, 500)
    assert alone.gave_up == 0
    backlog.hold(Holding(), 10)
    assert (alone.gave_up, backlog.held) == (1, 10)


async def test_bodies_that_still_come_have_room_together() -> None:
    """Three clients each send most of a body and stop: the first of them is refused, a fourth that sends all is not."""
    async with street() as here:
        here.app.backlog = Backlog(2 * MB)
        part = b"x" * (MB - 1000)
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MB
        slow = []
        for number in range(1, 4):
            slow.append(await here.connect())
            slow[-1][1].write(head + part)
            await until(partial(holds, here, min(number, 2) * len(part)))
        refused = await slow[0][0].read()
        [(status, _, body)] = answers(refused)
        assert (status, b"backlog_full" in body) == (503, True)
        for reader, writer in slow[1:]:
            writer.write(b"x" * 1000)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await until(lambda: not here.app.backlog.held)
        for _, writer in slow:
            writer.close()


async def test_answers_that_are_not_read_have_room_together() -> None:
    async with street(Limits(max_unread=40 * MB)) as here:
        request = b"GET /echo?big=30000000 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: identity\r\n\r\n"
        slow = []
        for number in range(3):
            slow.append(await here.connect())
            slow[-1][1].write(request)
            await until(partial(dropped, here, number))
        reader, last = slow[-1]  # it came last, so it keeps its answer
        received = 0
        while received < 30_000_000:
            received += len(await reader.read(MB))
        last.close()
        for _, writer in slow[:-1]:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        await until(lambda: here.app.metrics.in_flight == 0)
        await asyncio.sleep(0)


async def test_large_requests_that_are_worked_on_have_room_together() -> None:
    async with street() as here:
        here.app.backlog = Backlog(2 * MB)
        head = b"POST /echo?later HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        worked_on = []
        for number in range(1, 3):
            worked_on.append(await here.connect())
            worked_on[-1][1].write(head % MB + b"x" * MB)
            await until(partial(asked, here, number))
        [(status, headers, body)] = answers(await here.talk(head % 100_000 + b"x" * 100_000))
        assert (status, headers[b"retry-after"], b"backlog_full" in body) == (503, b"1", True)
        small = await here.connect()
        small[1].write(head % 10 + b"x" * 10)
        await until(lambda: len(here.probe.pending) == 3)
        for pending in here.probe.pending:
            pending.set_result(Response(200, (), b"done"))
        for reader, writer in (*worked_on, small):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
        [(status, _, _)] = answers(await here.talk((head % MB).replace(b"?later", b"") + b"x" * MB))
        assert status == 200
