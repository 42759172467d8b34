"""What is undone however a call and an instance end, and what an instance does before it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from insula.calls import Call, Reply
from insula.errors import DeadlineError, GuestError, InsulaError, LimitError, UnavailableError
from insula.host.scope import Home, Phase, Scope
from insula.services.life import Entry, Life
from insula.services.service import Service, ServiceOptions
from tests.services.conftest import ID, Bench
from tests.services.program import ManualClock, MemoryExchange, MemoryInstance, MemoryProgram, settle

Make = Callable[..., Awaitable[Bench]]


class Journal:
    """A guest whose every entry notes its end, and the end of its instance's home at first; `ways` says how it ends."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.homes: list[Home] = []

    def __call__(self, instance: MemoryInstance, scope: Scope, method: str, payload: bytes) -> Any:
        scope.host_calls += 1
        assert scope.home is instance.home is not None
        if scope.home not in self.homes:
            self.homes.append(scope.home)
            number = instance.number
            scope.home.on_end(lambda: self.ended.append(f"instance {number}"))
        scope.on_end(lambda: self.ended.append(payload.decode()))
        if payload == b"trap":
            raise GuestError("trap")
        if payload.startswith(b"wait"):
            return self._forever()
        return b"{}"

    async def _forever(self) -> bytes:
        await asyncio.Event().wait()
        return b""


class TestEnds:
    """The scope of a call ends with it, whatever ends it, and the home with its instance."""

    async def test_an_answer(self, bench: Make) -> None:
        journal = Journal()
        each = await bench(journal)
        each.submit(b"one")
        each.submit(b"two")
        assert journal.ended == ["one", "two"]
        each.service.stop()
        assert journal.ended == ["one", "two", "instance 1"]

    async def test_a_trap(self, bench: Make) -> None:
        journal = Journal()
        each = await bench(journal)
        with pytest.raises(GuestError):
            each.submit(b"trap")
        assert journal.ended == ["trap", "instance 1"]

    async def test_a_deadline(self, bench: Make, clock: ManualClock) -> None:
        journal = Journal()
        each = await bench(journal)
        pending = each.later(b"wait", within=1.0)
        await clock.advance(2.0)
        with pytest.raises(DeadlineError):
            await pending
        assert journal.ended == ["wait", "instance 1"]

    async def test_a_client_that_left(self, bench: Make) -> None:
        journal = Journal()
        each = await bench(journal)
        each.later(b"wait").cancel()
        await settle()
        assert journal.ended == ["wait", "instance 1"]

    async def test_a_stop(self, bench: Make) -> None:
        journal = Journal()
        each = await bench(journal, max_instances=1)
        pending = each.later(b"wait")
        each.service.stop()
        await settle()
        with pytest.raises(UnavailableError):
            await pending
        assert journal.ended == ["wait", "instance 1"]

    async def test_idleness(self, bench: Make, clock: ManualClock) -> None:
        journal = Journal()
        each = await bench(journal, idle_after=10.0)
        each.submit(b"one")
        await clock.advance(25.0)
        assert journal.ended == ["one", "instance 1"]

    async def test_a_start_that_fails(self, bench: Make) -> None:
        each = await bench(Journal(), start=False)
        ended: list[str] = []

        def prepare(home: Home) -> None:
            home.on_end(lambda: ended.append("home"))

        async def starting(_: int) -> None:
            scope: Scope = each.program.scopes[-1]
            assert scope.phase is Phase.START
            assert scope.deadline == each.clock.now() + each.program.start_timeout
            scope.on_end(lambda: ended.append("start"))
            raise GuestError("it does not start")

        each.service._lives._prepare = prepare
        each.program.starting = starting
        with pytest.raises(GuestError):
            await each.service.start()
        assert ended == ["start", "home"]

    async def test_a_preparation_that_fails(self, bench: Make) -> None:
        each = await bench(Journal(), start=False)

        def prepare(home: Home) -> None:
            raise LimitError("no room for it")

        each.service._lives._prepare = prepare
        with pytest.raises(LimitError):
            await each.service.start()
        assert each.program.scopes == []


class Living:
    """A service whose instances have a life; `phases` are its entries, in order."""

    def __init__(self, clock: ManualClock, **options: int) -> None:
        self.clock = clock
        self.phases: list[str] = []
        self.answers: dict[str, list[Any]] = {}
        self.program = MemoryProgram(self.enter, clock)
        life = Life(*(Entry(MemoryExchange(name), 5.0) for name in ("start", "drain", "close")))
        self.service = Service(
            ID, self.program, {"work": MemoryExchange("work")}, ServiceOptions(**options), life=life, clock=clock
        )

    def enter(self, instance: MemoryInstance, scope: Scope, method: str, payload: bytes) -> Any:
        assert method == "work" or scope.phase.value == method
        assert scope.call.principal is None
        self.phases.append(f"{method} {instance.number}")
        scope.on_end(lambda: self.phases.append(f"{method} over"))
        answer = (self.answers.get(method) or [b"0"]).pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def living(clock: ManualClock) -> Living:
    return Living(clock)


class TestLife:
    async def test_start_drain_and_close(self, living: Living) -> None:
        await living.service.start()
        assert living.phases == ["start 1", "start over"]
        assert await living.service.drain(60.0)
        await living.service.closed()
        assert living.phases[2:] == ["drain 1", "drain over", "close 1", "close over"]
        assert living.program.living == 0

    async def test_it_is_drained_until_it_is_idle(self, living: Living, clock: ManualClock) -> None:
        await living.service.start()
        living.answers["drain"] = [b"20", b"1", b"0"]
        drained = asyncio.create_task(living.service.drain(60.0))
        await clock.advance(1.0)
        assert await drained
        assert living.phases.count("drain 1") == 3
        assert living.phases[-1] == "close over"

    async def test_it_is_closed_where_it_is_never_idle(
        self, living: Living, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        await living.service.start()
        living.answers["drain"] = [b"20"] * 10_000
        drained = asyncio.create_task(living.service.drain(60.0))
        await clock.advance(6.0)
        assert await drained
        assert living.phases[-1] == "close over"
        assert "has work left" in caplog.text

    @pytest.mark.parametrize("what", [GuestError("trap"), b"soon"])
    async def test_what_fails_is_logged_and_the_instance_goes(
        self, living: Living, what: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        await living.service.start()
        living.answers["drain"] = [what]
        assert await living.service.drain(60.0)
        assert "failed in its drain" in caplog.text
        assert living.program.living == 0
        assert ("close 1" in living.phases) is isinstance(what, bytes), "a dead guest is not entered"

    async def test_a_start_that_fails_is_a_start_that_failed(self, living: Living) -> None:
        living.answers["start"] = [GuestError("not today")]
        with pytest.raises(InsulaError, match="not today"):
            await living.service.start()
        assert living.program.living == 0

    async def test_a_stop_waits_for_nobody(self, living: Living) -> None:
        await living.service.start()
        living.answers["close"] = [asyncio.get_running_loop().create_future()]
        drained = asyncio.create_task(living.service.drain(60.0))
        await settle()
        assert living.service.in_flight == 1
        living.service.stop()
        await living.service.closed()
        assert not await drained or living.program.living == 0
        assert living.phases[-1] == "close over"

    async def test_a_call_waits_for_the_place_of_one_that_goes(self, clock: ManualClock) -> None:
        """A singleton is never two, not even for the moment in which one is drained."""
        living = Living(clock, idle_after=10, max_instances=1)
        await living.service.start()
        held = living.answers["close"] = [asyncio.get_running_loop().create_future()]
        future = held[0]
        await clock.advance(21.0)
        assert living.service.in_flight == 1
        answer = living.service.submit(Call(ID, "work", b"{}", clock.now() + 60.0))
        assert not isinstance(answer, Reply)
        await settle()
        assert len(living.program.instances) == 1
        future.set_result(b"")
        await settle()
        assert answer.done()
        assert len(living.program.instances) == 2
        living.service.stop()
        await living.service.closed()

    async def test_an_idle_one_has_its_life_too(self, clock: ManualClock) -> None:
        living = Living(clock, idle_after=10)
        await living.service.start()
        await clock.advance(25.0)
        assert living.phases[-1] == "close over"
        assert living.service.instances()["idle"] == 0
        living.service.stop()
