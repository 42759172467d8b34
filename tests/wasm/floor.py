"""A floor to run guests on: an engine that is looked over after each test, a guest for each way of a call, and a clock."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from insula.wasm.contract import GuestLimits, HostImport, Signature, WasiOptions
from insula.wasm.engine import NativeEngine, NativeProgram, OwnedInstance
from insula.wasm.instance import LiveInstance
from insula.wasm.machine import machine
from insula.wasm.native.callbacks import cells
from insula.wasm.pace import Pace
from tests.guests import digest, wat
from tests.wasm.test_contract import Steps

#: A nap takes a millisecond. `ask` asks the host once;
#: `spin` asks it until it answers something; `both` spins, then asks; `loop` asks nobody.
GUEST = """(module
  (import "t" "ask" (func $ask (result i32)))
  (import "t" "spin" (func $spin (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\\01") (data (i32.const 24) "\\40\\42\\0f")
  (func (export "nap_and_spin") (result i32)
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))) (call $turn) (i32.const 4))
  (func (export "one") (result i32) (i32.const 1))
  (func (export "trap") (result i32) unreachable)
  (func (export "ask") (result i32) (call $ask))
  (func (export "ask_and_trap") (result i32) (drop (call $ask)) unreachable)
  (func (export "spin_and_trap") (result i32) (call $turn) unreachable)
  (func (export "twice") (result i32) (i32.add (call $ask) (call $ask)))
  (func $turn (loop (br_if 0 (i32.eqz (call $spin)))))
  (func (export "spin") (result i32) (call $turn) (i32.const 2))
  (func (export "both") (result i32) (call $turn) (call $ask))
  (func (export "ask_and_spin") (result i32) (drop (call $ask)) (call $turn) (i32.const 3))
  (func (export "loop") (result i32) (loop (br 0)) (i32.const 0))
  (func (export "grow") (result i32) (memory.grow (i32.const 100))))"""


class Watched(Pace):
    """A pace that keeps what it is told, and no times."""

    def __init__(self, *, slow: bool = False) -> None:
        super().__init__()
        self.said: list[str] = []
        self.spent: list[float] = []
        if slow:
            self.helper_overran()

    def watch(self) -> None:
        self.said.append("watch")
        super().watch()

    def took(self, spent: float) -> None:
        self.said.append("took")
        self.spent.append(spent)
        super().took(spent)

    def missed(self, spent: float) -> None:
        self.said.append("missed")
        self.spent.append(spent)
        super().missed(spent)

    def took_in_worker(self, spent: float) -> None:
        self.said.append("took in worker")
        self.spent.append(spent)
        super().took_in_worker(spent)


class Floor:
    """An engine and programs of the guest. `spun` is how often a guest asked whether to go on, and in which threads;
    `go` lets it; `answer` is what `ask` gives."""

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self.schedule = engine.schedule
        self.workers = engine.schedule.workers
        self.go = threading.Event()
        self.answer: Callable[[], bytes | Awaitable[bytes]] = lambda: b""
        self.spun: Counter[str] = Counter()
        self.scopes: list[Any] = []
        self.on_spin: Callable[[Any], None] = lambda scope: None

    async def program(self, **limits: Any) -> NativeProgram:
        path = wat(GUEST)
        module = await self.engine.load(path, digest(path))
        one = Signature((), ("i32",))
        imports = [
            HostImport("t", "ask", one, lambda g, a: b"", self._ask, lambda g, answer: (len(answer),)),
            HostImport("t", "spin", one, lambda g, a: b"", self._spin, lambda g, answer: (len(answer),)),
        ]
        made = self.engine.link(module, imports, GuestLimits(**limits), WasiOptions())
        assert isinstance(made, NativeProgram)
        return made

    def _ask(self, scope: Any, request: bytes) -> bytes | Awaitable[bytes]:
        self.scopes.append(scope)
        return self.answer()

    def _spin(self, scope: Any, request: bytes) -> bytes:
        self.spun[threading.current_thread().name] += 1
        self.on_spin(scope)
        return b"1" if self.go.is_set() else b""

    @property
    def in_workers(self) -> int:
        return sum(count for name, count in self.spun.items() if name.startswith("insula-guest"))


class Guest:
    """One instance, and calls of it."""

    def __init__(self, program: NativeProgram, instance: OwnedInstance) -> None:
        self.program, self.instance = program, instance

    @classmethod
    async def of(cls, program: NativeProgram) -> Guest:
        instance = await program.instantiate()
        assert isinstance(instance, OwnedInstance)
        return cls(program, instance)

    def start(
        self, export: str, *, within: float = 20.0, pace: Pace | None = None, scope: Any = None
    ) -> bytes | asyncio.Future[bytes]:
        steps = Steps(export)
        steps.pace = pace or Pace()
        return self.program.runner(steps)(self.instance, b"", scope, time.monotonic() + within)

    def later(self, export: str, **more: Any) -> asyncio.Future[bytes]:
        answer = self.start(export, **more)
        assert not isinstance(answer, bytes)
        return answer


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[LiveInstance, str]]:
    """Each instance that was freed, every time that it was, and by which thread."""
    seen: list[tuple[LiveInstance, str]] = []
    free = LiveInstance.free

    def watched(instance: LiveInstance) -> None:
        seen.append((instance, threading.current_thread().name))
        free(instance)

    monkeypatch.setattr(LiveInstance, "free", watched)
    return seen


@pytest.fixture(params=[8])
async def floor(
    request: pytest.FixtureRequest, cache: Path, freed: list[tuple[LiveInstance, str]]
) -> AsyncIterator[Floor]:
    """An engine with so many threads; after each test every instance was freed, once."""
    before = set(cells)
    engine = await NativeEngine.open(cache, threads=request.param)
    here = Floor(engine)
    yield here
    here.go.set()
    await engine.close()
    assert max(Counter(id(instance) for instance, _ in freed).values(), default=1) == 1
    assert set(cells) <= before
    assert (engine.schedule.instances, engine.schedule.running, engine.guest_memory.held) == (0, 0, 0)
    assert (engine.schedule.workers.busy, engine.schedule.tasks) == (0, set())


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock stands, so that no slice ends however busy the machine is."""
    goes = threading.Event()
    monkeypatch.setattr(machine().ticker, "_sleep", lambda seconds: goes.wait(20))
    yield
    goes.set()


a_still_clock = pytest.mark.usefixtures("still")
one_thread = pytest.mark.parametrize("floor", [1], indirect=True)


async def whole(start: Callable[[], bytes | asyncio.Future[bytes]]) -> bytes:
    """The answer, whether it comes at once or later."""
    answer = start()
    return answer if isinstance(answer, bytes) else await answer


async def until(condition: Callable[[], object]) -> None:
    """Waits for what no event tells."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is looked at belongs to the product
            await asyncio.sleep(0.001)
