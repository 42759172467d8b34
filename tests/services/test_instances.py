"""When instances are started, and what becomes of a service where none starts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from insula.calls import Reply
from insula.errors import GuestError, LimitError, UnavailableError
from insula.services.instances import BATCH
from insula.services.states import State
from tests.services.conftest import Bench, Gates
from tests.services.program import ManualClock, echo, fragile, settle

Make = Callable[..., Awaitable[Bench]]


class TestInstances:
    async def test_as_many_as_calls_up_to_the_maximum(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=3)
        pending = [each.later(b"%d" % number) for number in range(10)]
        await settle()
        assert each.service.instances() == {"idle": 0, "busy": 3, "starting": 0, "max": 3}
        for number in range(10):
            await gates.open(b"%d" % number)
        await asyncio.gather(*pending)

    async def test_the_minimum_is_warm_at_start(self, bench: Make) -> None:
        each = await bench(echo, min_instances=3)
        assert each.service.instances()["idle"] == 3

    async def test_the_minimum_is_kept(self, bench: Make) -> None:
        each = await bench(fragile, min_instances=2, max_instances=2)
        for _ in range(2):
            with pytest.raises(GuestError):
                each.submit(b"trap")
        await settle()
        assert each.service.instances()["idle"] == 2

    async def test_idle_ones_are_closed_and_come_back(self, bench: Make, clock: ManualClock) -> None:
        each = await bench(echo, idle_after=60.0)
        await clock.advance(130.0)
        assert each.service.instances()["idle"] == 0
        assert each.program.living == 0
        assert each.service.counts.passivated == 1
        assert each.state() is State.READY
        assert clock.pending == 0, "a service that sleeps costs no timer"
        assert await each.later(b"[]") == Reply(b"[]")

    async def test_what_is_used_is_not_closed(self, bench: Make, clock: ManualClock) -> None:
        each = await bench(echo, idle_after=60.0)
        for _ in range(20):
            await clock.advance(30.0)
            assert isinstance(each.submit(), Reply), "answered inline: the instance was there"
        assert each.service.counts.passivated == 0

    async def test_only_what_the_load_left_behind_is_closed(self, bench: Make, clock: ManualClock) -> None:
        gates = Gates()
        each = await bench(gates, min_instances=1, max_instances=5, idle_after=60.0)
        pending = [each.later(b"%d" % number, within=1000.0) for number in range(5)]
        await settle()
        for number in range(5):
            await gates.open(b"%d" % number)
        await asyncio.gather(*pending)
        assert each.service.instances()["idle"] == 5
        await clock.advance(130.0)
        assert each.service.instances()["idle"] == 1
        assert clock.pending == 0

    async def test_memory_that_others_need_is_given_back_down_to_the_minimum(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, min_instances=2, max_instances=5)
        pending = [each.later(b"%d" % number) for number in range(4)]
        await settle()
        for number in range(3):
            await gates.open(b"%d" % number)
        each.service.shed()
        assert each.service.instances() == {"idle": 1, "busy": 1, "starting": 0, "max": 5}
        assert (each.program.living, each.service.counts.passivated) == (2, 2)
        each.service.shed()
        assert each.program.living == 2
        await gates.open(b"3")
        await asyncio.gather(*pending)

    async def test_one_turn_begins_a_bounded_number_of_the_minimum(
        self, bench: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        each = await bench(echo, start=False, min_instances=100, max_instances=100)
        turn, started, start = 0, Counter[int](), each.service._instances.pool.start

        def counted() -> None:
            started[turn] += 1
            start()

        monkeypatch.setattr(each.service._instances.pool, "start", counted)
        starting = asyncio.ensure_future(each.service.start())
        while not starting.done():
            turn += 1
            await asyncio.sleep(0)
        await starting
        assert each.service.instances()["idle"] == started.total() == 100
        assert max(started.values()) <= BATCH


class TestSupervision:
    async def test_a_first_instance_that_does_not_start(self, bench: Make) -> None:
        each = await bench(echo, start=False, min_instances=2)

        def start(number: int) -> None:
            raise GuestError("trap in _initialize")

        each.program.starting = start
        with pytest.raises(GuestError, match="_initialize"):
            await each.service.start()
        assert each.state() is State.STOPPED
        assert each.service.last_error == "trap in _initialize"

    async def test_no_more_are_begun_once_a_first_one_failed(self, bench: Make) -> None:
        each = await bench(echo, start=False, min_instances=100, max_instances=100)
        tried: list[int] = []

        def start(number: int) -> None:
            tried.append(number)
            raise GuestError("trap in _initialize")

        each.program.starting = start
        with pytest.raises(GuestError, match="_initialize"):
            await each.service.start()
        await settle()
        assert len(tried) < 100
        assert each.state() is State.STOPPED

    async def test_back_off_and_return(self, bench: Make, clock: ManualClock) -> None:
        each = await bench(fragile, min_instances=1, max_instances=1)
        attempts: list[float] = []

        def start(number: int) -> None:
            attempts.append(round(clock.now() - 1000.0, 3))
            raise GuestError("no")

        each.program.starting = start
        with pytest.raises(GuestError):
            each.submit(b"trap")
        waiting = each.later()
        await settle()
        assert each.state() is State.DEGRADED
        with pytest.raises(UnavailableError, match="cannot start"):
            await waiting
        with pytest.raises(UnavailableError) as caught:
            each.submit()
        assert caught.value.retry_after == pytest.approx(0.1)
        await clock.advance(100.0)
        assert attempts[:9] == [0.0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7, 25.5]
        assert attempts[9] == pytest.approx(51.1), "the delay doubles"
        assert attempts[10] == pytest.approx(81.1), "and ends at 30 seconds"
        assert each.service.counts.failed_starts == len(attempts)
        each.program.starting = lambda number: None
        await clock.advance(30.0)
        assert each.state() is State.READY
        assert isinstance(each.submit(), Reply)

    async def test_a_service_with_an_instance_goes_on(self, bench: Make, clock: ManualClock) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=2)

        def start(number: int) -> None:
            raise LimitError("no room")

        each.program.starting = start
        first, second = each.later(b"a"), each.later(b"b")
        await settle()
        assert each.state() is State.DEGRADED
        assert not second.done(), "it waits for the instance that lives"
        await gates.open(b"a")
        await gates.open(b"b")
        await asyncio.gather(first, second)

    async def test_what_lives_is_used_though_no_other_one_starts(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=2)

        def start(number: int) -> None:
            raise LimitError("no room")

        each.program.starting = start
        first, second = each.later(b"a"), each.later(b"b")
        await settle()
        for payload in (b"a", b"b"):
            await gates.open(payload)
        await asyncio.gather(first, second)
        assert each.state() is State.DEGRADED
        third = each.later(b"c")
        assert gates.entered == [b"a", b"b", b"c"]
        await gates.open(b"c")
        await third

    async def test_without_a_minimum_the_next_call_tries_again(self, bench: Make, clock: ManualClock) -> None:
        each = await bench(fragile, max_instances=1)

        def start(number: int) -> None:
            raise GuestError("no")

        each.program.starting = start
        with pytest.raises(GuestError):
            each.submit(b"trap")
        await settle()
        each.program.starting = lambda number: None
        with pytest.raises(UnavailableError):
            each.submit()
        await clock.advance(0.2)
        assert await each.later() == Reply(b"2")

    @pytest.mark.parametrize("reason", ["guest_memory", "instances"])
    async def test_a_start_that_others_left_no_room_for_degrades_nothing(
        self, bench: Make, clock: ManualClock, reason: str
    ) -> None:
        each = await bench(fragile, min_instances=1, max_instances=1)
        crowded = LimitError("the guests of this server have all of it", reason=reason, retry_after=1.0)

        def starting(number: int) -> None:
            raise crowded

        each.program.starting = starting
        with pytest.raises(GuestError):
            each.submit(b"trap")  # and no other instance starts
        for _ in range(3):
            with pytest.raises(LimitError, match="have all of it") as caught:
                await each.later()
            assert caught.value is not crowded, "each caller has an error of its own"
            assert each.state() is State.READY
        each.program.starting = lambda number: None
        await clock.advance(1.0)  # it tries again by itself, since one is always kept
        assert each.service.instances()["idle"] == 1
        assert await each.outcome() == Reply(b"2")

    async def test_a_call_that_waits_for_a_busy_instance_has_another_start_tried_soon(
        self, bench: Make, clock: ManualClock
    ) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=2)
        tried: list[float] = []

        def starting(number: int) -> None:
            tried.append(clock.now())
            raise LimitError("the guests of this server have all of it", reason="guest_memory")

        each.program.starting = starting
        first, second = each.later(b"a", within=60.0), each.later(b"b", within=60.0)
        await clock.advance(2.0)
        assert [at - tried[0] for at in tried] == [0.0, 0.5, 1.0, 1.5, 2.0]
        each.program.starting = lambda number: None
        await clock.advance(0.5)
        assert gates.entered == [b"a", b"b"], "the second did not wait for the first"
        for payload in (b"a", b"b"):
            await gates.open(payload)
        await asyncio.gather(first, second)

    async def test_no_start_is_tried_again_once_nothing_waits(self, bench: Make, clock: ManualClock) -> None:
        each = await bench(Gates(), max_instances=2)
        tried: list[float] = []

        def starting(number: int) -> None:
            tried.append(clock.now())
            raise LimitError("the guests of this server have all of it", reason="instances")

        each.program.starting = starting
        busy, waiting = each.later(b"a", within=60.0), each.later(b"b", within=60.0)
        await clock.advance(0.6)
        assert len(tried) == 2
        waiting.cancel()
        await clock.advance(5.0)
        assert len(tried) == 2
        assert clock.pending == 2, "that of the call that runs, and that of the pool"
        busy.cancel()

    async def test_one_turn_starts_a_bounded_number_however_many_calls_end_in_it(
        self, bench: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=100, mailbox=200)
        pending = [each.later(b"%d" % number) for number in range(200)]
        await settle()
        for _ in range(20):
            await settle()
        assert each.service.in_flight == 100
        turn, started, start = 0, Counter[int](), each.service._instances.pool.start

        def counted() -> None:
            started[turn] += 1
            start()

        monkeypatch.setattr(each.service._instances.pool, "start", counted)
        for call in pending[:100]:
            call.cancel()
        while started.total() < 100:
            turn += 1
            await asyncio.sleep(0)
        assert max(started.values()) <= BATCH
        for call in pending[100:]:
            call.cancel()

    async def test_none_takes_the_place_of_a_lost_one_where_another_is_ready(self, bench: Make) -> None:
        each = await bench(Gates(), min_instances=1, max_instances=3)
        pending = [each.later(b"wait") for _ in range(3)]
        await settle()
        for call in pending:
            call.cancel()
        await settle()
        assert each.service.instances()["idle"] == 1
