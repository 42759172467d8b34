"""A service over the engine in memory, its clock in the test's hand; nothing may outlive the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from insula.calls import Call, Pending, Reply, ServiceId
from insula.services.service import Service, ServiceOptions
from insula.services.states import State
from tests.services.program import Behaviour, ManualClock, MemoryExchange, MemoryInstance, MemoryProgram, settle

ID = ServiceId("shop", "Orders", "v1")


class Gates:
    """Guest calls that wait until the test opens them: the payload names the gate."""

    def __init__(self) -> None:
        self.entered: list[bytes] = []
        self._gates: dict[bytes, asyncio.Future[bytes]] = {}

    def __call__(self, instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes | Awaitable[bytes]:
        self.entered.append(payload)
        gate = self._gates[payload] = asyncio.get_running_loop().create_future()
        return gate

    async def open(self, payload: bytes, answer: bytes | Exception = b'"done"') -> None:
        gate = self._gates.pop(payload)
        if isinstance(answer, Exception):
            gate.set_exception(answer)
        else:
            gate.set_result(answer)
        await settle()


class Bench:
    """One service, ready for calls."""

    def __init__(
        self, behaviour: Behaviour, clock: ManualClock, options: ServiceOptions, service_id: ServiceId = ID
    ) -> None:
        self.clock = clock
        self.program = MemoryProgram(behaviour, clock)
        methods = {name: MemoryExchange(name) for name in ("work", "other")}
        self.service = Service(
            service_id, self.program, {**methods, "watch": None}, options, clock=clock, jitter=lambda: 0.0
        )

    def call(self, payload: bytes = b"{}", method: str = "work", within: float = 5.0, **more: Any) -> Call:
        return Call(ID, method, payload, self.clock.now() + within, **more)

    def submit(self, payload: bytes = b"{}", method: str = "work", within: float = 5.0, **more: Any) -> Reply | Pending:
        return self.service.submit(self.call(payload, method, within, **more))

    def state(self) -> State:
        return self.service.state

    async def outcome(self, payload: bytes = b"{}") -> Reply:
        answer = self.submit(payload)
        return answer if isinstance(answer, Reply) else await answer

    def later(self, payload: bytes = b"{}", within: float = 5.0, **more: Any) -> Pending:
        answer = self.submit(payload, within=within, **more)
        assert not isinstance(answer, Reply)
        return answer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def bench(clock: ManualClock) -> AsyncIterator[Callable[..., Awaitable[Bench]]]:
    """Makes ready services: `await bench(behaviour, max_instances=2)`."""
    made: list[Bench] = []

    async def make(behaviour: Behaviour, start: bool = True, **options: Any) -> Bench:
        each = Bench(behaviour, clock, ServiceOptions(**options))
        made.append(each)
        if start:
            await each.service.start()
        return each

    yield make
    for each in made:
        each.service.stop()
        await each.service.closed()
        await settle()
        each.program.close()
