from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from insula.calls import Pending, Reply
from insula.errors import Code, DeadlineError, GuestError, LimitError, UnavailableError
from insula.host.iterators import open_iterator
from insula.services.states import State
from insula.wasm.contract import RefusalError, UnbegunError
from tests.services.conftest import Bench, Gates
from tests.services.program import ManualClock, MemoryInstance, echo, fragile, settle

Make = Callable[..., Awaitable[Bench]]


class TestAnswer:
    async def test_inline(self, bench: Make) -> None:
        each = await bench(echo)
        assert each.submit(b"[1]") == Reply(b"[1]")
        assert each.service.instances() == {"idle": 1, "busy": 0, "starting": 0, "max": 8}
        assert each.service.counts.calls == 1
        assert each.service.counts.waits == 0

    async def test_later(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates)
        pending = each.later(b"a")
        assert each.service.in_flight == 1
        await gates.open(b"a", b'"x"')
        assert await pending == Reply(b'"x"')
        assert each.service.in_flight == 0

    async def test_metadata_of_the_guest(self, bench: Make) -> None:
        def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes:
            scope.host_calls += 1
            scope.headers.append(("x-a", "1"))
            scope.headers.append(("x-a", "2"))
            scope.trailers.append(("x-b", "3"))
            return b"{}"

        each = await bench(guest)
        assert each.submit() == Reply(b"{}", (("x-a", "1"), ("x-a", "2")), (("x-b", "3"),))

    @pytest.mark.parametrize("later", [False, True])
    async def test_metadata_of_a_guest_that_fails(self, bench: Make, later: bool) -> None:
        def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes | asyncio.Future[bytes]:
            scope.host_calls += 1
            scope.headers.append(("x-a", "1"))
            scope.trailers.append(("x-b", "3"))
            error = RefusalError("no such order", code=Code.NOT_FOUND)
            if not later:
                raise error
            failing: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(failing.set_exception, error)
            return failing

        each = await bench(guest)
        with pytest.raises(RefusalError) as caught:
            await each.later() if later else each.submit()
        assert (caught.value.headers, caught.value.trailers) == ((("x-a", "1"),), (("x-b", "3"),))

    @pytest.mark.parametrize("way", ["at once", "later", "from the mailbox"])
    async def test_a_call_that_no_guest_has_seen_runs_again_on_another_instance(self, bench: Make, way: str) -> None:
        gates = Gates()

        def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes | Awaitable[bytes]:
            if payload == b"hold":
                return gates(instance, scope, method, payload)
            if instance.number > 1:
                return b"%d" % instance.number
            error = UnbegunError("too long", reason="helper")
            if way == "at once":
                raise error
            failing: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(failing.set_exception, error)
            return failing

        each = await bench(guest, max_instances=1)
        held = each.later(b"hold") if way == "from the mailbox" else None
        pending = each.later(b"a")
        if held is not None:
            await gates.open(b"hold", b"1")
            await held
        assert await pending == Reply(b"2")
        assert each.service.counts.traps == 1
        assert each.service.counts.errors == {}

    async def test_a_refusal_leaves_the_instance_as_it_is(self, bench: Make) -> None:
        def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes:
            raise RefusalError("no such order", code=Code.NOT_FOUND)

        each = await bench(guest)
        for _ in range(3):
            with pytest.raises(RefusalError):
                each.submit()
        assert len(each.program.instances) == 1
        assert each.service.counts.traps == 0
        assert each.service.last_error is None

    async def test_open_iterators_end_with_the_call(self, bench: Make) -> None:
        closed = []

        class Chunks:
            async def read(self) -> bytes | None:
                return b"1"

            def close(self) -> None:
                closed.append(self)

        def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes:
            scope.host_calls += 1
            open_iterator(scope, Chunks())
            if payload == b"trap":
                raise GuestError("trap")
            return b"{}"

        each = await bench(guest)
        each.submit()
        assert len(closed) == 1
        with pytest.raises(GuestError):
            each.submit(b"trap")
        assert len(closed) == 2


class TestTrap:
    async def test_the_next_call_is_right(self, bench: Make) -> None:
        each = await bench(fragile, max_instances=1)
        assert each.submit() == Reply(b"1")
        with pytest.raises(GuestError, match="unreachable"):
            each.submit(b"trap")
        assert each.service.instances()["starting"] == 1, "the replacement starts at once"
        assert await each.later() == Reply(b"2")
        assert each.program.instances[0].closed
        assert each.service.counts.traps == 1
        assert each.service.last_error == "trap: unreachable"
        assert each.state() is State.READY

    async def test_an_instance_that_ended_while_it_answered(self, bench: Make) -> None:
        """As one does that was closed from within: its answer counts, and it is never entered again."""

        def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes:
            instance.alive = False
            return b"%d" % instance.number

        each = await bench(guest, max_instances=1)
        assert each.submit() == Reply(b"1")
        assert each.program.instances[0].closed
        assert each.service.instances() == {"idle": 0, "busy": 0, "starting": 1, "max": 1}
        assert await each.later() == Reply(b"2")

    async def test_the_log_says_which_call_it_was(self, bench: Make, caplog: pytest.LogCaptureFixture) -> None:
        def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes | Awaitable[bytes]:
            return later() if payload == b"later" else trap()

        def trap() -> bytes:
            raise GuestError("unreachable")

        async def later() -> bytes:
            return trap()

        each = await bench(guest)
        for payload, request in ((b"now", "r-1"), (b"later", "r-2")):
            caplog.clear()
            asked = each.call(payload, request_id=request)
            with pytest.raises(GuestError):
                await cast("Pending", each.service.submit(asked))
            await settle()
            assert f"shop.Orders.v1/work (request {request}) ended its instance" in caplog.text
            assert "unreachable" in caplog.text

    async def test_a_hundred_traps_in_a_row(self, bench: Make) -> None:
        each = await bench(fragile, max_instances=2)
        for _ in range(100):
            with pytest.raises(GuestError):
                await each.outcome(b"trap")
        assert (await each.outcome()).payload.isdigit()
        assert each.program.living <= 2
        assert each.service.counts.traps == 100

    async def test_later(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1)
        first, second = each.later(b"a"), each.later(b"b")
        await gates.open(b"a", RuntimeError("boom"))
        with pytest.raises(GuestError, match="boom"):
            await first
        await settle()
        assert gates.entered == [b"a", b"b"], "a new instance took the call that waited"
        await gates.open(b"b")
        await second

    async def test_a_missed_deadline(self, bench: Make, clock: ManualClock) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1)
        slow = each.later(b"slow", within=1.0)
        await clock.advance(1.5)
        with pytest.raises(DeadlineError):
            await slow
        next_one = each.later(b"next")
        await settle()
        await gates.open(b"next")
        await next_one
        assert each.program.instances[0].closed


class TestMailbox:
    async def test_order_in_a_singleton(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1)
        pending = [each.later(b"%d" % number) for number in range(5)]
        for number in range(5):
            assert gates.entered == [b"%d" % n for n in range(number + 1)]
            await gates.open(b"%d" % number, b"%d" % number)
        assert [(await each).payload for each in pending] == [b"0", b"1", b"2", b"3", b"4"]

    async def test_nobody_overtakes_who_waits(self, bench: Make) -> None:
        order: list[bytes] = []

        def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes | Awaitable[bytes]:
            order.append(payload)
            return payload if payload != b"slow" else asyncio.sleep(0, b"slow")

        each = await bench(guest, max_instances=1)
        first = each.later(b"slow")
        waiting = [each.later(b"%d" % number) for number in range(40)]
        await first
        last = each.later(b"last")
        await asyncio.gather(*waiting, last)
        assert order == [b"slow", *(b"%d" % number for number in range(40)), b"last"]

    async def test_overload_and_recovery(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1, mailbox=3)
        accepted = [each.later(b"%d" % number) for number in range(4)]
        for _ in range(100):
            with pytest.raises(LimitError) as caught:
                each.submit(b"more")
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert caught.value.reason == "mailbox_full"
        assert each.service.mailbox() == {"waiting": 3, "max": 3}
        for number in range(4):
            await gates.open(b"%d" % number)
        await asyncio.gather(*accepted)
        again = each.later(b"again")
        await gates.open(b"again")
        await again
        assert each.service.queued == 0
        assert each.service.counts.errors == {Code.RESOURCE_EXHAUSTED: 100}

    async def test_a_deadline_that_passes_in_the_mailbox(self, bench: Make, clock: ManualClock) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1)
        running = each.later(b"a", within=100.0)
        late, early = each.later(b"late", within=3.0), each.later(b"early", within=1.0)
        await clock.advance(1.0)
        with pytest.raises(DeadlineError):
            await early
        assert not late.done()
        await clock.advance(2.0)
        with pytest.raises(DeadlineError):
            await late
        await gates.open(b"a")
        await running
        assert gates.entered == [b"a"], "no instance worked for who had given up"

    async def test_a_deadline_that_has_passed_already(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1)
        each.later(b"a")
        with pytest.raises(DeadlineError):
            each.submit(within=0.0)

    async def test_timers_do_not_pile_up(self, bench: Make, clock: ManualClock) -> None:
        gates = Gates()
        each = await bench(gates, min_instances=1, max_instances=1, mailbox=10)
        for round_ in range(200):
            first = each.later(b"first", within=1000.0 + round_)
            second = each.later(b"second", within=1000.0 - round_)
            await gates.open(b"first")
            await gates.open(b"second")
            await asyncio.gather(first, second)
        assert clock.pending == 0
        assert each.service.counts.waits == 200


class TestCancel:
    async def test_while_it_waits(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1, mailbox=1)
        running, waiting = each.later(b"a"), each.later(b"b")
        waiting.cancel()
        await settle()
        third = each.later(b"c")
        await gates.open(b"a")
        await gates.open(b"c")
        await asyncio.gather(running, third)
        assert gates.entered == [b"a", b"c"]
        assert each.service.counts.errors == {Code.CANCELED: 1}

    async def test_while_it_is_answered(self, bench: Make) -> None:
        """From within its own call, that is; who waits behind it is served all the same."""
        gates = Gates()

        def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes | Awaitable[bytes]:
            if payload == b"first":
                return gates(instance, scope, method, payload)
            if payload == b"second":
                waiting.cancel()
            return payload

        each = await bench(guest, max_instances=1)
        running, waiting, last = each.later(b"first"), each.later(b"second"), each.later(b"third")
        await gates.open(b"first")
        assert (await last).payload == b"third"
        assert waiting.cancelled()
        await running

    async def test_in_the_same_turn_as_the_instance_comes_free(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1)
        each.later(b"a")
        waiting = each.later(b"b")
        waiting.cancel()
        await gates.open(b"a")
        assert gates.entered == [b"a"]

    async def test_while_it_runs(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1)
        running = each.later(b"a")
        await settle()
        running.cancel()
        await settle()
        assert each.program.instances[0].closed
        assert each.service.instances() == {"idle": 1, "busy": 0, "starting": 0, "max": 1}
        assert each.service.last_error is None

    async def test_a_thousand_at_random_leave_nothing_behind(self, bench: Make) -> None:
        chance = random.Random(7)

        async def work(instance: MemoryInstance) -> bytes:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if chance.random() < 0.1:
                raise RuntimeError("trap")
            return b"{}"

        def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes | Awaitable[bytes]:
            if chance.random() < 0.3:
                return b"{}"
            return work(instance)

        each = await bench(guest, max_instances=4, mailbox=50)
        outcomes = {"reply": 0, "refused": 0, "trap": 0, "cancelled": 0}
        open_calls = []
        for _ in range(1000):
            try:
                answer = each.submit()
            except LimitError:
                outcomes["refused"] += 1
                await settle()
                continue
            if isinstance(answer, Reply):
                outcomes["reply"] += 1
                continue
            open_calls.append(answer)
            if chance.random() < 0.4:
                victim = chance.choice(open_calls)
                victim.cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        for result in await asyncio.gather(*open_calls, return_exceptions=True):
            kind = {Reply: "reply", GuestError: "trap", asyncio.CancelledError: "cancelled"}[type(result)]
            outcomes[kind] += 1
        assert sum(outcomes.values()) == 1000
        assert min(outcomes.values()) > 0
        assert await each.service.drain(10.0)
        await each.service.closed()
        await settle()
        assert each.program.living == 0
        assert sum(each.service.counts.errors.values()) == 1000 - outcomes["reply"]


class TestEnd:
    async def test_drain_loses_nothing_it_accepted(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=2)
        accepted = [each.later(b"%d" % number) for number in range(20)]
        await settle()
        draining = asyncio.ensure_future(each.service.drain(5.0))
        await settle()
        assert each.state() is State.DRAINING
        with pytest.raises(UnavailableError, match="is draining"):
            each.submit()
        for number in range(20):
            await gates.open(b"%d" % number)
        assert await draining
        assert len([await each for each in accepted]) == 20
        assert each.state() is State.STOPPED
        assert each.program.living == 0

    async def test_drain_goes_on_after_a_trap(self, bench: Make) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1)
        first, second = each.later(b"a"), each.later(b"b")
        draining = asyncio.ensure_future(each.service.drain(5.0))
        await settle()
        await gates.open(b"a", RuntimeError("boom"))
        await settle()
        await gates.open(b"b")
        with pytest.raises(GuestError):
            await first
        await second
        assert await draining

    async def test_drain_has_an_end(self, bench: Make, clock: ManualClock) -> None:
        gates = Gates()
        each = await bench(gates, max_instances=1)
        running, waiting = each.later(b"a", within=100.0), each.later(b"b", within=100.0)
        draining = asyncio.ensure_future(each.service.drain(5.0))
        await settle()
        await clock.advance(5.0)
        assert not await draining
        for pending in (running, waiting):
            with pytest.raises(UnavailableError):
                await pending
        await each.service.closed()
        assert each.program.living == 0

    async def test_drain_of_a_quiet_service_is_done_at_once(self, bench: Make, clock: ManualClock) -> None:
        each = await bench(echo)
        assert await each.service.drain(5.0)
        assert await each.service.drain(5.0), "and again"
        assert clock.pending == 0

    async def test_stop_while_an_instance_is_on_its_way(self, bench: Make) -> None:
        each = await bench(fragile)
        gate = asyncio.get_running_loop().create_future()
        each.program.starting = lambda number: gate
        with pytest.raises(GuestError):
            each.submit(b"trap")
        waiting = each.later()
        await settle()
        each.service.stop()
        each.service.stop()
        with pytest.raises(UnavailableError):
            await waiting
        closed = asyncio.ensure_future(each.service.closed())
        await settle()
        assert not closed.done()
        gate.set_result(None)
        await closed
        await settle()
        assert each.program.living == 0
