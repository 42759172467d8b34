"""Answers that come later: the same on both roads, a bounded number in a turn, and whole whatever becomes of the client."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from insula.edge.exchange import Answer, Head, Later, Response, Route
from insula.edge.late import LateAnswer
from insula.edge.limits import ConnectionLimits
from insula.edge.routes import RouteTable
from insula.errors import Code, InsulaError
from tests.edge.conftest import Street, answers, statuses, until
from tests.edge.roads import CLOSE, PLAIN, Roads, Told, post, roads
from tests.edge.test_fast_connection import connections

LIMITS = ConnectionLimits(keep_alive_timeout=0.15, linger=0.3)


class Waits(Told):
    """A handler whose answers wait: `begun` has what each waits for, `finish` makes of its result the answer."""

    def __init__(self, finish: Callable[[Any], Answer]) -> None:
        super().__init__()
        self.begun: list[asyncio.Future[Any]] = []
        self.finish = finish

    def answer(self, head: Head, kind: bytes, body: bytes) -> Answer:
        if body == b"now":
            return Response(200, PLAIN, b"at once")
        self.asked.append((head.path, tuple(head.headers), body))
        waited: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.begun.append(waited)
        return Later(waited, self.finish)


def said(result: Any) -> Response:
    return Response(200, PLAIN, str(result).encode())


def waiting(road: Street, finish: Callable[[Any], Answer] = said) -> Waits:
    waits = Waits(finish)
    road.app.table = RouteTable([(b"/do", Route(waits, "/do", frozenset(("POST",)), max_body=100_000, timeout=5.0))])
    return waits


async def both(here: Roads, finish: Callable[[Any], Answer], *results: Any) -> bytes:
    """What both roads say where what is waited for has these results, one after the other."""

    async def settled(waits: Waits) -> None:
        for n, result in enumerate(results):
            await until(lambda n=n: len(waits.begun) > n)  # type: ignore[misc]
            if isinstance(result, BaseException):
                waits.begun[n].set_exception(result)
            elif result is None:
                waits.begun[n].cancel()
            else:
                waits.begun[n].set_result(result)

    settling = [asyncio.create_task(settled(waiting(road, finish))) for road in here.both]
    one = await here.same(post() + CLOSE)
    await asyncio.gather(*settling)
    return one


async def test_what_is_waited_for_makes_the_answer() -> None:
    async with roads(LIMITS) as here:
        assert [body for *_, body in answers(await both(here, said, "one", "two"))] == [b"one", b"two"]


async def test_what_is_waited_for_may_make_something_else_to_wait_for() -> None:
    def twice(result: Any) -> Answer:
        more: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(more.set_result, f"{result} more")
        return Later(more, said)

    async with roads(LIMITS) as here:
        assert [body for *_, body in answers(await both(here, twice, "one", "two"))] == [b"one more", b"two more"]


def mistaken(result: Any) -> Answer:
    raise RuntimeError("a secret")


def refusing(result: Any) -> Answer:
    raise InsulaError("not now", code=Code.ABORTED, retry_after=3)


@pytest.mark.parametrize(
    ("finish", "result", "status"),
    [
        (mistaken, "x", 500),
        (refusing, "x", 409),
        (said, RuntimeError("a secret"), 500),
        (said, InsulaError("lost", code=Code.DATA_LOSS), 500),
        (said, None, 499),
        (lambda _: Response(200, ((b"x-bad", b"a\r\nb"),)), "x", 500),
        (lambda _: Response(200, PLAIN, None), "x", 500),  # type: ignore[arg-type]
        (lambda _: Response(204), "x", 204),
        (lambda _: Response(200, PLAIN, b"y" * 2000), "x", 200),
        (lambda _: Response(200, PLAIN, b"y" * 100_000), "x", 200),
    ],
)
async def test_what_goes_wrong_is_the_same_on_both_roads(
    finish: Callable[[Any], Answer], result: Any, status: int
) -> None:
    async with roads(LIMITS) as here:
        told = await both(here, finish, result, result)
        assert statuses(told) == [status, status]
        assert b"secret" not in told
        for road in here.both:
            await until(lambda road=road: road.app.metrics.routes["/do"].statuses == {status: 2})  # type: ignore[misc]
            assert road.app.metrics.in_flight == 0


async def test_a_large_answer_is_compressed_as_any_other() -> None:
    async with roads(LIMITS) as here:
        waits = waiting(here.lane, lambda _: Response(200, PLAIN, b"y" * 100_000))
        asking = asyncio.create_task(here.lane.talk(post(fields=b"Accept-Encoding: gzip\r\nConnection: close\r\n")))
        talking = asyncio.create_task(here.lane.talk(post(fields=b"Accept-Encoding: gzip\r\n")))
        await until(lambda: len(waits.begun) == 2)
        for waited in waits.begun:
            waited.set_result("x")
        for said_ in (await asking, await talking):
            [(status, headers, body)] = answers(said_)
            assert (status, headers[b"content-encoding"], len(body) < 1000) == (200, b"gzip", True)


async def test_a_large_answer_that_comes_at_a_stop_is_the_last_one() -> None:
    async with roads(LIMITS) as here:
        waits = waiting(here.lane, lambda _: Response(200, PLAIN, b"y" * 100_000))
        reader, writer = await here.lane.connect()
        writer.write(post(fields=b"Accept-Encoding: gzip\r\n"))
        await until(lambda: waits.begun)
        [connection] = connections(here.lane)
        stopping = asyncio.create_task(here.lane.listener.stop(5))
        await until(lambda: not connection._request.keep_alive)  # type: ignore[union-attr]
        waits.begun[0].set_result("x")
        [(status, headers, _)] = answers(await reader.read())
        assert (status, headers[b"content-encoding"], headers.get(b"connection")) == (200, b"gzip", b"close")
        await stopping
        writer.close()


@pytest.mark.parametrize("how", ["answered", "the client leaves"])
async def test_nothing_of_an_answer_stays_once_it_is_over(how: str) -> None:
    """Its time is no longer counted: the timer would keep it, with the request, for as long as the route allows."""

    class Finish:
        def __call__(self, result: Any) -> Answer:
            return said(result)

    class Patient(Told):
        def answer(self, head: Head, kind: bytes, body: bytes) -> Answer:
            finish = Finish()
            kept.append(weakref.ref(finish))
            waited: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            begun.append(waited)
            return Later(waited, finish)

    kept, begun = list[Any](), list[asyncio.Future[Any]]()
    async with roads(LIMITS) as here:
        route = Route(Patient(), "/do", frozenset(("POST",)), max_body=100, timeout=600.0)
        here.lane.app.table = RouteTable([(b"/do", route)])
        reader, writer = await here.lane.connect()
        writer.write(post())
        await until(lambda: begun)
        if how == "answered":
            begun.pop().set_result("done")
            await reader.readuntil(b"done")
        else:
            writer.transport.abort()
            await until(begun.pop().cancelled)
        await until(lambda: kept[0]() is None)
        writer.close()


async def test_answers_keep_their_order_and_the_connection_goes_on() -> None:
    async with roads(LIMITS) as here:
        waits = waiting(here.lane)
        reader, writer = await here.lane.connect()
        for _ in range(3):
            writer.write(post(b"later") + post(b"now") + post(b"later"))
            await until(lambda: waits.begun)
            waits.begun.pop().set_result("first")
            await reader.readuntil(b"first")
            await reader.readuntil(b"at once")
            await until(lambda: waits.begun)
            waits.begun.pop().set_result("second")
            await reader.readuntil(b"second")
        writer.close()


async def test_while_an_answer_is_waited_for_the_connection_is_not_idle() -> None:
    async with roads(LIMITS) as here:
        waits = waiting(here.lane)
        reader, writer = await here.lane.connect()
        for wait in (0.0, 0.3, 0.0, 0.3):
            writer.write(post())
            await until(lambda: waits.begun)
            await asyncio.sleep(wait)  # twice what an idle connection has: that it passes is the question
            waits.begun.pop().set_result("at last")
            await reader.readuntil(b"at last")
        assert await reader.read() == b"", "once it is idle, its time counts"
        writer.close()


async def test_a_turn_finishes_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty answers are there in the same turn; each takes the time of a whole one here."""
    async with roads(LIMITS) as here:
        turn, finished = 0, Counter[int]()

        def finish(result: Any) -> Answer:
            finished[turn] += 1
            return said(result)

        waits = waiting(here.lane, finish)
        clients = [await here.lane.connect() for _ in range(20)]
        for _, writer in clients:
            writer.write(post())
        await until(lambda: len(waits.begun) == 20)
        monkeypatch.setattr("insula.edge.intake.BUDGET", 0.0)

        def count() -> None:
            nonlocal turn
            turn += 1
            if finished.total() < 20:
                asyncio.get_running_loop().call_soon(count)

        count()
        for waited in waits.begun:
            waited.set_result("done")
        for reader, writer in clients:
            await reader.readuntil(b"done")
            writer.close()
        assert max(finished.values()) <= 2  # callbacks of one turn stand before and behind its first


class Deaf:
    """A connection that only counts its answers."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.told: list[Response] = []

    def late(self, answer: LateAnswer, response: Response) -> None:
        answer.complete = True
        self.told.append(response)


@pytest.mark.parametrize("how", ["cancelled", "failed", "answered", "a mistake"])
async def test_an_answer_that_nobody_waits_for_is_dropped(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also one that comes in the very turn in which the client leaves. A mistake is logged all the same."""
    wrong: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
    async with roads(LIMITS) as here:
        waits = waiting(here.lane)
        [known] = [await _known(here.lane, waits)]
        waited: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        late = LateAnswer(here.lane.app, known, Head("POST", b"/do", b"", []), Later(waited, said), 0)
        deaf = Deaf()
        late.begin(deaf)
        if how == "failed":
            waited.set_exception(InsulaError("too late"))
        elif how == "a mistake":
            waited.set_exception(KeyError("lost"))
        elif how == "answered":
            waited.set_result("x")
        late.left()
        late.left()  # a connection tells of its end more than once
        late.cut_off()
        for _ in range(4):
            await asyncio.sleep(0)
        assert waited.cancelled() == (how == "cancelled")
        assert deaf.told == []
        assert here.lane.app.metrics.in_flight == 0
        assert known.stats.statuses[499] == 1
        del waited, late
        gc.collect()
    assert wrong == []
    assert ("KeyError: 'lost'" in caplog.text) == (how == "a mistake")


async def _known(road: Street, waits: Waits) -> Any:
    """What the lane knows of the head of a call."""
    assert road.lane is not None
    assert statuses(await road.talk(post(b"now"), post(b"now")[:0])) == [200]
    return next(iter(road.lane.memo.young.values()))


async def test_what_waits_when_the_server_stops_gets_a_whole_503() -> None:
    async with roads(LIMITS) as here:
        waits = waiting(here.lane)
        reader, writer = await here.lane.connect()
        writer.write(post())
        await until(lambda: waits.begun)
        await here.lane.listener.stop(0.01)
        [(status, headers, _)] = answers(await reader.read())
        assert (status, headers[b"connection"], headers[b"retry-after"]) == (503, b"close", b"1")
        assert waits.begun[0].cancelled()
        writer.close()


async def test_what_waits_when_the_server_stops_has_its_grace() -> None:
    async with roads(LIMITS) as here:
        waits = waiting(here.lane)
        reader, writer = await here.lane.connect()
        writer.write(post())
        await until(lambda: waits.begun)
        stopping = asyncio.create_task(here.lane.listener.stop(5))
        await asyncio.sleep(0)
        waits.begun[0].set_result("done")
        [(status, headers, body)] = answers(await reader.read())
        assert (status, headers[b"connection"], body) == (200, b"close", b"done")
        await stopping
        writer.close()


@pytest.mark.parametrize("how", ["their time is over", "the server stops", "their clients leave"])
async def test_a_turn_gives_up_a_bounded_number(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with roads(LIMITS) as here:
        waits = waiting(here.lane)
        clients = [await here.lane.connect() for _ in range(20)]
        for _, writer in clients:
            writer.write(post())
        await until(lambda: len(waits.begun) == 20)
        turn, cancelled = 0, Counter[int]()
        for waited in waits.begun:
            waited.add_done_callback(lambda _: cancelled.update([turn]))
        monkeypatch.setattr("insula.edge.intake.BUDGET", 0.0)

        def count() -> None:
            nonlocal turn
            turn += 1
            if cancelled.total() < 20:
                asyncio.get_running_loop().call_soon(count)

        count()
        for connection in connections(here.lane):
            late = connection._request
            assert isinstance(late, LateAnswer)
            if how == "their time is over":
                late._late()
            elif how == "the server stops":
                late.cut_off()
            else:
                connection.abort()
        await until(lambda: cancelled.total() == 20)
        assert max(cancelled.values()) <= 2
        for _, writer in clients:
            writer.close()


@pytest.mark.parametrize("size", [100, 100_000], ids=["small", "compressed in a thread"])
async def test_what_comes_behind_a_late_answer_keeps_its_order_and_its_body(size: int) -> None:
    """The ordinary road finishes a large answer: it must not take the place of a request that is half read."""
    async with roads(LIMITS) as here:
        waits = waiting(here.lane, lambda result: Response(200, PLAIN, result * size))
        reader, writer = await here.lane.connect()
        gzipped = b"Accept-Encoding: gzip\r\nX-Request-Id: "
        second = post(b"second", gzipped + b"b\r\n")
        writer.write(post(b"first", gzipped + b"a\r\n") + second[:-3])
        await until(lambda: waits.begun)
        waits.begun[0].set_result(b"1")
        assert b"x-request-id: a" in await reader.readuntil(b"\r\n\r\n")
        writer.write(second[-3:])
        await until(lambda: len(waits.begun) == 2)
        writer.write(post(b"third", gzipped + b"c\r\nConnection: close\r\n"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(waits.begun) == 2, "one after the other"
        waits.begun[1].set_result(b"2")
        await until(lambda: len(waits.begun) == 3)
        waits.begun[2].set_result(b"3")
        rest = await reader.read()
        assert rest.index(b"x-request-id: b") < rest.index(b"x-request-id: c")
        assert [body for _, _, body in waits.asked] == [b"first", b"second", b"third"]
        writer.close()
