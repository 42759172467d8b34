"""Large requests are handed over a few at a time, and each service has its turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from insula.edge.exchange import Answer, Head
from insula.edge.routes import RouteTable
from insula.edge.turns import BUDGET, Turns
from tests.edge.conftest import Probe, statuses, street, until

MB = 1 << 20


class Clock:
    """Counts turns of the loop."""

    def __init__(self) -> None:
        self.turn = 0
        self._loop = asyncio.get_running_loop()
        self._on = True
        self._tick()

    def _tick(self) -> None:
        self.turn += 1
        if self._on:
            self._loop.call_soon(self._tick)

    def stop(self) -> None:
        self._on = False


async def test_one_alone_and_small_ones_do_not_wait() -> None:
    turns = Turns(100)
    assert turns.enter("a", 500) is None
    waits = [turns.enter("a", 50) for _ in range(5)]
    assert None not in waits
    await asyncio.gather(*filter(None, waits))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turns.enter("a", 60) is None
    assert turns.enter("b", 40) is None
    assert turns.enter("a", 1) is not None


async def test_each_service_in_turn_and_no_turn_for_who_left() -> None:
    turns, done = Turns(100), []
    assert turns.enter("greedy", 100) is None

    async def body(tenant: str, wait: asyncio.Future[None] | None) -> None:
        assert wait is not None
        await wait
        done.append(tenant)

    greedy = [asyncio.create_task(body("greedy", turns.enter("greedy", 100))) for _ in range(20)]
    gone = [asyncio.create_task(body("gone", turns.enter("gone", 100))) for _ in range(20)]
    other = asyncio.create_task(body("other", turns.enter("other", 100)))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await other
    assert done.count("greedy") <= 3
    await asyncio.gather(*greedy)
    assert Counter(done) == {"greedy": 20, "other": 1}


async def test_no_turn_of_the_loop_has_more_than_its_part_of_large_bodies() -> None:
    """Forty bodies of half a megabyte are whole at about the same time; another service's comes behind them."""
    taken: list[tuple[int, bytes]] = []

    class Noting(Probe):
        def answer(self, head: Head, body: bytes) -> Answer:
            taken.append((clock.turn, head.path))
            return super().answer(head, b"")

    async with street() as here:
        clock, probe = Clock(), Noting()
        one = replace(here.app.table.exact[b"/echo"], handler=probe)
        here.app.table = RouteTable([(b"/echo", one), (b"/other", replace(one, label="/other", tenant="other"))])
        head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        clients = [await here.connect() for _ in range(40)]
        for _, writer in clients:
            writer.write(head % (b"/echo", MB // 2) + b"x" * (MB // 2 - 1))
        await until(lambda: here.app.backlog.held == 40 * (MB // 2 - 1))
        for _, writer in clients:
            writer.write(b"x")
        other = await here.connect()
        other[1].write(head % (b"/other", BUDGET) + b"x" * BUDGET)
        for reader, writer in (*clients, other):
            assert statuses(await reader.read()) == [200]
            writer.close()
        clock.stop()
        assert len(taken) == 41
        assert max(Counter(turn for turn, _ in taken).values()) == 1


async def test_a_client_that_leaves_while_it_waits_for_its_turn_takes_none() -> None:
    async with street() as here:
        here.app.turns = Turns()
        blocked = here.app.turns
        blocked._armed = True  # no turn comes
        assert blocked.enter("", BUDGET) is None
        reader, writer = await here.connect()
        writer.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MB + b"x" * MB)
        await until(lambda: blocked._waiting)
        writer.close()
        await until(lambda: here.app.metrics.in_flight == 0)
        assert here.probe.bodies == []
        assert here.app.in_hand.used("") == 0
        blocked._next()
        assert not blocked._waiting
        del reader
