"""The engine over wasmtime's public Python API: guests run in a bounded pool of worker threads.

The event loop owns everything but the guests: who may enter an instance, the deadline of each job, and when an instance is
freed. A job's answer comes by its future at the latest when its deadline passes, whether its thread is done or not; the
thread is told to stop at that moment and comes free as soon as the guest reaches its next loop or call. An instance is
freed by a thread once none is in it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from insula.errors import DeadlineError, InsulaError, UnavailableError
from insula.wasm.cache import CodeCache
from insula.wasm.compiler import Compiler
from insula.wasm.config import FINGERPRINT
from insula.wasm.contract import Exchange, GuestLimits, HostImport, Instance, Module, Program, Runner, WasiOptions
from insula.wasm.linking import Blueprint, bind
from insula.wasm.modules import Modules, OpenModule
from tests.wasm.reference.instance import ThreadInstance
from tests.wasm.reference.jobs import Job
from tests.wasm.reference.line import Line
from tests.wasm.reference.workers import Workers

log = logging.getLogger("insula.wasm")

T = TypeVar("T")

#: How long `close` waits for guests to come out, and then for their threads to end (s each).
_GRACE = 2.0


class ThreadEngine:
    """The engine of one event loop; made while that loop runs.

    `cache` is the folder of compiled code, swept down to `cache_bytes`. `threads` guests run at once and `backlog` jobs
    wait. A module may take `compile_timeout` seconds and `compile_memory` bytes to compile, `compiles` of them at once.
    """

    def __init__(
        self,
        cache: Path,
        *,
        threads: int = 32,
        backlog: int = 1024,
        compile_timeout: float = 60.0,
        compile_memory: int = 2 << 30,
        compiles: int = 2,
        cache_bytes: int = 2 << 30,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.workers = Workers(threads, backlog)
        self.programs: set[ThreadProgram] = set()
        compiler = Compiler(at_once=compiles, memory=compile_memory, timeout=compile_timeout)
        self._modules = Modules(CodeCache(cache, FINGERPRINT, cache_bytes), compiler)
        self._closed = False

    async def load(self, wasm: Path, digest: str) -> Module:
        self.check_open()
        return await self._modules.load(wasm, digest)

    def link(
        self, module: Module, imports: Sequence[HostImport], limits: GuestLimits, wasi: WasiOptions, *, name: str = ""
    ) -> Program:
        self.check_open()
        assert isinstance(module, OpenModule)
        program = ThreadProgram(self, bind(module.code, imports, limits, wasi))
        self.programs.add(program)
        return program

    async def close(self) -> None:
        """Stops every guest, gives up every compilation and ends the threads, within a few seconds. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._modules.close()
        for program in list(self.programs):
            program.close()
        if not await self.workers.idle(_GRACE):
            log.error("a guest did not come out in time")
        self.workers.close()
        await asyncio.to_thread(self.workers.join, _GRACE)

    def check_open(self) -> None:
        """UnavailableError once the engine is closed."""
        if self._closed:
            raise UnavailableError("the server is stopping")


class ThreadProgram:
    """A linked module and its instances."""

    def __init__(self, engine: ThreadEngine, blueprint: Blueprint) -> None:
        self._engine = engine
        self._blueprint = blueprint
        self._instances: set[OwnedInstance] = set()
        self._closed = False
        self.start_timeout = blueprint.limits.start_timeout
        self.calls_host = any(binding.host is not None for binding in blueprint.bindings)

    @property
    def memory(self) -> int:
        return 0  # it is not counted here

    def instantiate(self, scope: Any = None) -> asyncio.Future[Instance]:
        self._check_open()
        self._engine.workers.check_room()
        instance = OwnedInstance(self._blueprint, self._engine, self._instances)

        def start() -> Instance:
            instance.start(scope)
            return instance

        seconds = self._blueprint.limits.start_timeout
        return instance.enter(start, seconds, f"the guest did not start within {seconds:g} s")

    def runner(self, exchange: Exchange) -> Runner:
        return functools.partial(self._run, exchange)

    def _run(
        self, exchange: Exchange, instance: Instance, payload: bytes, scope: Any, deadline: float
    ) -> bytes | asyncio.Future[bytes]:
        self._check_open()
        assert isinstance(instance, OwnedInstance)
        if instance.job is not None or not instance.alive:
            raise InsulaError("this instance is in use, or was ended")
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise DeadlineError("the deadline passed before the guest was called")
        self._engine.workers.check_room()
        entry = instance.run
        return instance.enter(lambda: entry(exchange, payload, scope), seconds, "the guest did not answer in time")

    def close(self) -> None:
        """Ends every instance; calls under way fail with UnavailableError. Idempotent."""
        self._closed = True
        for instance in list(self._instances):
            instance.close()
        self._engine.programs.discard(self)

    def _check_open(self) -> None:
        self._engine.check_open()
        if self._closed:
            raise UnavailableError("this version of the service is gone")


class OwnedInstance(ThreadInstance):
    """An instance with what the loop knows of it: the job that is in it, and whether it has been given back."""

    def __init__(self, blueprint: Blueprint, engine: ThreadEngine, siblings: set[OwnedInstance]) -> None:
        super().__init__(blueprint, Line(engine.loop))
        self.job: Job[Any] | None = None
        self._owner = engine
        self._siblings = siblings
        siblings.add(self)

    def enter(self, work: Callable[[], T], seconds: float, late: str) -> asyncio.Future[T]:
        """Has a thread do the work; nobody is in here, and there is room."""
        self.line.deadline = time.monotonic() + seconds
        job = Job(
            self._owner.loop,
            work,
            seconds=seconds,
            late=late,
            stop=self.stop,
            left=self._left,
            orphaned=self.free,
        )
        self.job = job
        self._owner.workers.submit(job.run)
        return job.future

    def close(self) -> None:
        if self.job is None:
            self._release()
        else:
            self.stop()
            self.job.refuse(UnavailableError("the instance was ended while it worked"))

    def _left(self) -> None:
        self.job = None
        self._owner.workers.done()
        if not self.alive:
            self._release()

    def _release(self) -> None:
        """Has a thread free it, once."""
        self.alive = False
        if self in self._siblings:
            self._siblings.discard(self)
            self._owner.workers.tidy(self.free)
