"""What slow clients hold has a sum, and whoever has held on for longest pays."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
import zlib
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from insula.edge.backlog import Backlog
from insula.edge.compression import CODINGS
from insula.edge.exchange import Response
from insula.edge.http1 import Stage
from insula.edge.http_connection import COUNTED_FROM, HttpConnection
from insula.edge.limits import ConnectionLimits
from insula.edge.routes import RouteTable
from insula.offload import Offload
from insula.shares import Shares
from tests.edge.conftest import Street, answers, statuses, street, until
from tests.scarce import refuse_threads

MB = 1 << 20


def live(here: Street) -> list[HttpConnection]:
    return [each for each in here.listener._shared.live if isinstance(each, HttpConnection)]


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


def test_a_holder_that_cannot_give_up_is_no_fault_of_the_one_that_needs_room(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def give_up(self) -> None:
            raise RuntimeError("cannot")

    backlog = Backlog(100)
    backlog.hold(Broken(), 60)
    backlog.hold(Broken(), 60)
    backlog.hold(Holding(), 80)
    assert backlog.held == 80
    assert caplog.text.count("RuntimeError: cannot") == 2


def test_who_holds_most_gives_up_and_not_who_came_first() -> None:
    backlog = Backlog(100)
    neighbour, greedy = Holding(), [Holding() for _ in range(9)]
    backlog.hold(neighbour, 30, "neighbour")
    for each in greedy:
        backlog.hold(each, 10, "greedy")
    assert neighbour.gave_up == 0
    assert [each.gave_up for each in greedy] == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    backlog.release(neighbour)
    for each in greedy:
        backlog.release(each)
    assert backlog.held == 0


async def test_a_service_whose_bodies_do_not_come_takes_no_other_services_room() -> None:
    async with street() as here:
        here.app.backlog = Backlog(2 * MB)
        one = here.app.table.exact[b"/echo"]
        here.app.table = RouteTable([(b"/echo", one), (b"/other", replace(one, label="/other", tenant="other"))])
        head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        reader, writer = await here.connect()
        writer.write(head % (b"/other", MB) + b"x" * (MB // 2))  # it began first
        await until(lambda: here.app.backlog.held >= MB // 2)
        slow = []
        for number in range(1, 6):
            slow.append(await here.connect())
            slow[-1][1].write(head % (b"/echo", MB) + b"x" * (MB // 2))
            await until(partial(holds, here, MB // 2 * min(4, 1 + number)))
        for refused, _ in slow[:2]:
            assert statuses(await refused.read()) == [503]
        writer.write(b"x" * (MB // 2))
        assert statuses(await reader.read()) == [200]
        for _, each in (*slow, (reader, writer)):
            each.close()


@pytest.mark.parametrize("lane", [False, True])
@pytest.mark.parametrize(
    "ahead",
    [
        b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n" * 4000,  # small requests
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + b"x" * 150_000,  # part of a large one
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 60_000,  # a head
    ],
)
async def test_requests_that_are_sent_ahead_have_room_together(lane: bool, ahead: bytes) -> None:
    """Forty clients send much more while their first request waits. What is held stays within the bound; who gives up
    gets the answer of the request under way and a whole 503; who keeps its place gets all."""
    async with street(ConnectionLimits(max_unread=MB, linger=5), lane=lane) as here:
        backlog = here.listener._shared.unread
        clients = []
        for number in range(1, 41):
            clients.append(await here.connect())
            clients[-1][1].write(b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\n" + ahead)
            await until(partial(asked, here, number))
        await until(lambda: here.drops.get("sent_ahead", 0) >= 20)
        connections = live(here)
        assert len(connections) == 40
        held = sum(each._sent_ahead() for each in connections if each._reader.stage is not Stage.DEAF)
        assert MB // 4 < held <= MB
        assert held - 40 * COUNTED_FROM <= backlog.held <= held
        for pending in here.probe.pending:
            pending.set_result(Response(200, (), b"at last"))
        gave_up = here.drops["sent_ahead"]
        for reader, writer in clients[:gave_up]:
            assert statuses(await reader.read()) == [200, 503]
            writer.close()
        for reader, writer in clients[gave_up:]:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
        await until(lambda: not here.listener.connections)
        assert backlog.held == 0


@pytest.mark.parametrize("lane", [False, True])
@pytest.mark.parametrize(
    "first",
    [
        b"GET /echo?later HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /echo?later HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000,
    ],
)
async def test_requests_that_are_sent_ahead_are_not_parsed(lane: bool, first: bytes) -> None:
    """Whatever came in the same read: a parsed one takes many times its bytes, and time of the loop."""
    async with street(lane=lane) as here:
        reader, writer = await here.connect()
        behind = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
        writer.write(first + behind * 200)
        await here.probe.asked.wait()
        [connection] = live(here)
        await until(lambda: connection._sent_ahead() > 199 * len(behind))
        assert not connection._reader.events
        here.probe.pending[0].set_result(Response(203, (), b"at last"))
        writer.write(behind.replace(b"Host", b"Connection: close\r\nHost"))
        assert statuses(await reader.read()) == [203, *[200] * 201]
        writer.close()


@pytest.mark.parametrize("lane", [False, True])
async def test_what_was_sent_ahead_is_counted_no_longer_once_it_is_answered(lane: bool) -> None:
    """Also where it was parsed already, in one slice with the end of the body before it."""
    async with street(lane=lane) as here:
        reader, writer = await here.connect()
        chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        second = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1800\r\n\r\n" + b"x" * 1800
        writer.write(chunked + b"5\r\nhello\r\n0\r\n\r\n" + second)
        await reader.readuntil(b"x" * 1800)
        assert here.listener._shared.unread.held == 0
        writer.close()


async def test_half_a_message_that_waits_in_the_lane_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insula.edge.fast_connection.SECOND_READ", 60.0)
    async with street(lane=True) as here:
        backlog = here.listener._shared.unread
        reader, writer = await here.connect()
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n"
        writer.write(head + b"x" * 40_000)
        await until(lambda: backlog.held == len(head) + 40_000)
        writer.write(b"x" * 10_000)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert backlog.held == 0
        writer.close()


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
        assert (status, b"backlog_full" in body, b"limits.held_mb allows, 2 MiB" in body) == (503, True, True)
        for reader, writer in slow[1:]:
            writer.write(b"x" * 1000)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await until(lambda: not here.app.backlog.held)
        for _, writer in slow:
            writer.close()


async def test_answers_that_are_not_read_have_room_together() -> None:
    async with street(ConnectionLimits(max_unread=40 * MB)) as here:
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
    """Each service has its share: the third large body of one is refused, the first of another is not."""
    async with street() as here:
        here.app.in_hand = Shares(4 * MB)
        one = here.app.table.exact[b"/echo"]
        here.app.table = RouteTable([(b"/echo", one), (b"/other", replace(one, label="/other", tenant="other"))])
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
        other = await here.connect()
        other[1].write((head % MB).replace(b"/echo", b"/other") + b"x" * MB)
        await until(lambda: len(here.probe.pending) == 4)
        for pending in here.probe.pending:
            pending.set_result(Response(200, (), b"done"))
        for reader, writer in (*worked_on, small, other):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
        [(status, _, _)] = answers(await here.talk((head % MB).replace(b"?later", b"") + b"x" * MB))
        assert status == 200
        assert here.app.in_hand.free == 4 * MB


async def test_a_large_body_is_counted_while_it_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a thread: a second one of its service has no room, and nothing is left behind by a bad one."""
    go = threading.Event()

    def slow(data: bytes, limit: int) -> bytes:
        assert go.wait(30)
        return CODINGS[b"deflate"].inflate(data, limit)

    monkeypatch.setitem(CODINGS, b"gzip", CODINGS[b"gzip"]._replace(inflate=slow))
    noise = os.urandom(MB // 2)
    packed = zlib.compress(noise)
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    async with street() as here:
        here.app.in_hand = Shares(MB + MB // 2)
        reader, writer = await here.connect()
        writer.write(head % (b"/echo", len(packed)) + packed)
        await until(lambda: here.app.in_hand.free < MB + MB // 2)
        assert statuses(await here.talk(head % (b"/echo", len(packed)) + packed)) == [503]
        go.set()
        [(status, _, body)] = answers(await reader.read())
        assert (status, body == noise) == (200, True)
        assert statuses(await here.talk(head % (b"/echo", MB // 2) + noise)) == [400]
        assert here.app.in_hand.free == MB + MB // 2
        writer.close()


async def test_a_service_whose_bodies_take_long_to_inflate_has_not_every_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = threading.Event()
    sound = CODINGS[b"gzip"].inflate

    def slow(data: bytes, limit: int) -> bytes:
        assert go.wait(30)
        return sound(data, limit)

    monkeypatch.setitem(CODINGS, b"br", CODINGS[b"br"]._replace(inflate=slow))
    packed = gzip.compress(os.urandom(150_000))
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Encoding: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    async with street() as here:
        one = here.app.table.exact[b"/echo"]
        here.app.table = RouteTable([(b"/echo", one), (b"/other", replace(one, label="/other", tenant="other"))])
        greedy = [await here.connect() for _ in range(40)]
        for _, writer in greedy:
            writer.write(head % (b"/echo", b"br", len(packed)) + packed)
        await until(lambda: here.app.in_hand.used("") == 40 * len(packed))
        assert statuses(await here.talk(head % (b"/other", b"gzip", len(packed)) + packed)) == [200]
        go.set()
        for reader, writer in greedy:
            assert statuses(await reader.read()) == [200]
            writer.close()


async def test_an_answer_whose_service_has_no_room_to_compress_goes_out_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with street() as here:
        here.app.offload = Offload(most=1)
        request = b"GET /echo?big=100000 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
        [(status, headers, body)] = answers(await here.talk(request))
        assert (status, headers.get(b"content-encoding"), len(body)) == (200, b"gzip", int(headers[b"content-length"]))
        here.app.offload._shares.take("")
        [(status, headers, body)] = answers(await here.talk(request))
        assert (status, headers.get(b"content-encoding"), len(body)) == (200, None, 100_000)
        assert headers[b"vary"] == b"accept-encoding"
        here.app.offload = Offload()
        with refuse_threads(monkeypatch):
            [(status, headers, body)] = answers(await here.talk(request))
        assert (status, headers.get(b"content-encoding"), len(body)) == (200, None, 100_000)


async def test_a_client_that_leaves_takes_its_body_from_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun = threading.Event(), threading.Event()

    def slow(data: bytes, limit: int) -> bytes:
        begun.set()
        assert go.wait(30)
        return data[:limit]

    monkeypatch.setitem(CODINGS, b"br", CODINGS[b"br"]._replace(inflate=slow))
    packed = os.urandom(150_000)
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Encoding: br\r\nContent-Length: %d\r\n\r\n" % len(packed)
    async with street() as here:
        clients = [await here.connect() for _ in range(20)]
        for _, writer in clients:
            writer.write(head + packed)
        await until(lambda: begun.is_set() and here.app.in_hand.used("") == 20 * len(packed))
        for _, writer in clients:
            writer.close()
        await until(lambda: here.app.metrics.in_flight == 0)
        assert here.app.in_hand.used("") == 0
        assert here.probe.bodies == []
        go.set()


async def test_an_answer_that_waits_long_for_a_thread_goes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insula.edge.app.COMPRESSED_WITHIN", 0.01)
    go = threading.Event()
    async with street() as here:
        held = [here.app.offload.run("other", go.wait, 30) for _ in range(8)]
        held += [here.app.offload.run("third", go.wait, 30) for _ in range(8)]
        request = b"GET /echo?big=100000 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
        [(status, headers, body)] = answers(await here.talk(request))
        assert (status, headers.get(b"content-encoding"), len(body)) == (200, None, 100_000)
        go.set()
        await asyncio.gather(*held)
