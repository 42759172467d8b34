"""The engine of a server: guests on fibers, on its event loop while they are quick and in a few threads where they are not.

One an event loop; all of a process share one wasmtime engine (machine.py), so that a module is in memory once. How a call
is run is the scheduler's; here is what the contract promises, and the hot path: a call that is answered inline makes no
object but its arguments and its answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, thread_time
from typing import Any, Protocol

from insula.errors import DeadlineError, InsulaError, LimitError, UnavailableError
from insula.shares import Shares
from insula.wasm.cache import CodeCache
from insula.wasm.compiler import Compiler
from insula.wasm.config import FINGERPRINT
from insula.wasm.contract import (
    Exchange,
    GuestLimits,
    HostImport,
    Instance,
    Module,
    OverranError,
    Program,
    RefusalError,
    Runner,
    WasiOptions,
)
from insula.wasm.faults import StoppedError
from insula.wasm.guest_memory import SHARE, GuestMemory, Tenant
from insula.wasm.instance import LiveInstance
from insula.wasm.linking import Blueprint, bind
from insula.wasm.machine import Machine, machine
from insula.wasm.modules import Modules, OpenModule
from insula.wasm.pace import NOTE, Pace
from insula.wasm.schedule import Schedule
from insula.wasm.scheduler import Running
from insula.wasm.steps import rest_steps, run_steps, start_steps, unbegun
from insula.wasm.templates import template_of
from insula.wasm.workers import Account, Workers

log = logging.getLogger("insula.wasm")

#: How long `close` waits for guests to come out, and then for their threads to end (s each).
_GRACE = 2.0

_LATE = "the guest did not answer in time"

#: A program whose instances may have more memory (bytes) never runs on the event loop: a single instruction of a guest can
#: touch all of it, and cannot be interrupted.
_LARGE = 64 << 20


#: Seconds between two times that the methods of a program have to show anew that they are quick.
_SUSPICION = 1.0


class _Job(Protocol):
    """The call that an instance is busy with, for the code that ends the instance."""

    def refuse(self, error: InsulaError) -> None: ...


class _Inline:
    """The job of an instance that the loop is in at this very moment. One that is ended from within its own host function
    is freed when it comes out."""

    def refuse(self, error: InsulaError) -> None:
        """There is nobody to tell: the call is being answered."""


_INLINE = _Inline()


class NativeEngine:
    """The engine of one event loop; made by `open` while that loop runs.

    `cache` is the folder of compiled code, swept down to `cache_bytes`. `threads` guests run at once in threads: of one
    program at most one for each core, and never in the last thread; `backlog` wait. At most `instances`
    live (0: as many as the system has room for), with `guest_memory` bytes together (0: most of what there is). A module
    may take `compile_timeout` seconds and `compile_memory` bytes to compile, `compiles` of them at once.
    """

    def __init__(
        self,
        shared: Machine,
        cache: Path,
        *,
        threads: int = 8,
        backlog: int = 1024,
        instances: int = 0,
        guest_memory: int = 0,
        compile_timeout: float = 60.0,
        compile_memory: int = 2 << 30,
        compiles: int = 2,
        cache_bytes: int = 2 << 30,
    ) -> None:
        room = shared.sizes.instances
        self.most_instances = min(instances or room, room)
        self.room: Shares[NativeProgram] = Shares(self.most_instances)
        workers = Workers(threads, backlog, max(1, min(threads - 1, os.cpu_count() or 1)))
        loop = asyncio.get_running_loop()
        self.schedule = Schedule(loop, workers, shared.ticker)
        self.guest_memory = GuestMemory(guest_memory or int(shared.memory * SHARE), loop)
        self.programs: set[NativeProgram] = set()
        compiler = Compiler(at_once=compiles, memory=compile_memory, timeout=compile_timeout)
        self._modules = Modules(CodeCache(cache, FINGERPRINT, cache_bytes), compiler)
        self._closed = False

    @classmethod
    async def open(cls, cache: Path, **options: Any) -> NativeEngine:
        """An engine with these options. ConfigurationError where the system has no room for guests."""
        return cls(await asyncio.to_thread(machine), cache, **options)

    async def load(self, wasm: Path, digest: str) -> Module:
        self._check_open()
        return await self._modules.load(wasm, digest)

    def link(
        self, module: Module, imports: Sequence[HostImport], limits: GuestLimits, wasi: WasiOptions, *, name: str = ""
    ) -> Program:
        self._check_open()
        assert isinstance(module, OpenModule)
        program = NativeProgram(self, bind(module.code, imports, limits, wasi), name)
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
        if not await self.schedule.idle(_GRACE):
            log.error("a guest did not come out in time")
        self.schedule.workers.close()
        await asyncio.to_thread(self.schedule.workers.join, _GRACE)

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError("the server is stopping")


class NativeProgram:
    """A linked module and its instances. `name` is the tenant's, for messages."""

    def __init__(self, engine: NativeEngine, blueprint: Blueprint, name: str = "") -> None:
        self._engine = engine
        self._schedule = engine.schedule
        self._ticker = engine.schedule.ticker
        self._blueprint = blueprint
        self._template = template_of(blueprint)
        self.calls_host = any(binding.host is not None for binding in blueprint.bindings)
        self.start_timeout = blueprint.limits.start_timeout
        self._name = name or "this service"
        self._account = Account(self._name)
        self._memory = Tenant(blueprint.limits.memory_bytes)
        engine.guest_memory.join(self._memory)
        self._start_pace = Pace()
        self._start_pace.keep_slow()  # what a module does to start cannot be interrupted: it may fill all its memory
        self._paces: list[Pace] = []
        self._slowed_at = 0.0
        self._instances: set[OwnedInstance] = set()
        self._closed = False

    @property
    def memory(self) -> int:
        return self._memory.bytes

    def instantiate(self, scope: Any = None) -> asyncio.Future[Instance]:
        self._check_open()
        engine = self._engine
        engine.guest_memory.start(self._blueprint.code.memory_bytes, self._memory)
        if not engine.room.take(self):
            raise LimitError(
                f"{self._name} has {engine.room.used(self)} instances, which is its share of {engine.most_instances}",
                reason="instances",
                hint="give the server fewer services, or fewer instances for each (limits.max_instances)",
                retry_after=1.0,
            )
        instance = OwnedInstance(self)
        instance.scope = scope
        seconds = self.start_timeout
        instance.deadline = monotonic() + seconds
        job: Running[Any] = Running(
            self._schedule,
            self._account,
            instance,
            start_steps(instance),
            pace=self._start_pace,
            deadline=instance.deadline,
            late=f"the guest did not start within {seconds:g} s",
            left=instance.left,
        )
        instance.job = job
        job.begin_in_worker(counts=False)
        return job.future

    def runner(self, exchange: Exchange) -> Runner:
        ticker, pace, export, number = self._ticker, exchange.pace, exchange.export, exchange.number
        begin, finish = exchange.begin, exchange.finish
        schedule, memory, account = self._schedule, self._engine.guest_memory, self._account
        turn = schedule.turn
        if self._blueprint.memory_most > _LARGE:
            pace.keep_slow()
        elif self._slowed_at:
            pace.suspect()
        pace.slowed = self._slowed
        self._paces.append(pace)

        def run(instance: Any, payload: bytes, scope: Any, deadline: float) -> bytes | asyncio.Future[bytes]:
            if instance.job is not None or not instance.alive:
                self._check_open()
                raise InsulaError("this instance is in use, or was ended")
            began = monotonic()
            if deadline <= began:
                raise DeadlineError("the deadline passed before the guest was called")
            if turn.full or not pace.unwatched or memory.scarce:
                if pace.slow or memory.scarce or (turn.full and not turn.has_time(account)):
                    return self._run_later(instance, exchange, payload, scope, deadline)
                pace.began = thread_time()
            ticker.used = True
            if ticker.asleep:
                ticker.wake()
            instance.job = _INLINE
            instance.scope = scope
            instance.deadline = deadline
            instance.pace = pace
            try:
                if instance.epoch != ticker.epoch:
                    instance.enter()
                    schedule.mark()
                    memory.note(instance)
                args: tuple[int, ...] = ()
                if number is not None and len(payload) <= instance.room:
                    answer = instance.swap(export, number, payload)
                else:
                    try:
                        args = begin(instance, payload)
                    except OverranError:
                        raise unbegun() from None
                    answer = instance.launch(export, args)
                if answer.__class__ is int:
                    answer = finish(instance, args, answer)
            except RefusalError:
                instance.job = None
                now = monotonic()
                if now - began > NOTE or not pace.unwatched:
                    schedule.ran(account, pace, now - began)
                if now >= deadline:
                    raise DeadlineError(_LATE) from None
                raise
            except BaseException as error:
                turn.add(account, monotonic() - began)
                raise self._ended(instance, error) from None
            now = monotonic()
            if answer is None:
                job = self._job(instance, exchange, rest_steps(instance, exchange, args), deadline)
                job.follow(now - began)
                return job.future
            instance.job = None
            if now - began > NOTE or not pace.unwatched:
                schedule.ran(account, pace, now - began)
            if not instance.alive:  # ended from within
                instance.left()
                schedule.free(account, instance)
            if now >= deadline:
                raise DeadlineError(_LATE)
            return answer  # type: ignore[no-any-return]

        return run

    def close(self) -> None:
        """Ends every instance; calls under way fail with UnavailableError. Idempotent."""
        if not self._closed:
            self._engine.guest_memory.leave(self._memory)
        self._closed = True
        for instance in list(self._instances):
            instance.close()
        self._template.close()
        self._engine.programs.discard(self)

    def _slowed(self) -> None:
        """A method has become slow: so may the others be."""
        now = monotonic()
        if now - self._slowed_at >= _SUSPICION:
            self._slowed_at = now
            for pace in self._paces:
                pace.suspect()

    def _run_later(
        self, instance: OwnedInstance, exchange: Exchange, payload: bytes, scope: Any, deadline: float
    ) -> asyncio.Future[bytes]:
        """Runs a call in a worker where its method is slow; else in a turn of the loop that has time for it."""
        slow = exchange.pace.slow
        if slow:
            self._schedule.workers.check_room(self._account)
        instance.scope = scope
        instance.deadline = deadline
        instance.pace = exchange.pace
        try:
            instance.enter()
        except LimitError as error:
            raise self._ended(instance, error) from None
        job = self._job(instance, exchange, run_steps(instance, exchange, payload), deadline)
        if slow:
            job.begin_in_worker()
        else:
            job.begin_later()
        return job.future

    def _job(self, instance: OwnedInstance, exchange: Exchange, steps: Any, deadline: float) -> Running[bytes]:
        job: Running[bytes] = Running(
            self._schedule,
            self._account,
            instance,
            steps,
            pace=exchange.pace,
            deadline=deadline,
            late=_LATE,
            left=instance.left,
        )
        instance.job = job
        return job

    def _ended(self, instance: OwnedInstance, error: BaseException) -> BaseException:
        """Frees an instance that failed on the loop; what the failure is called."""
        instance.alive = False
        told = instance.why(error)
        instance.left()
        self._schedule.free(self._account, instance)
        return DeadlineError(_LATE) if isinstance(told, StoppedError) else told

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError("this version of the service is gone")


class OwnedInstance(LiveInstance):
    """An instance with what the loop knows of it: the job that is in it, and whose it is."""

    __slots__ = ("_counted", "_program", "job")

    def __init__(self, program: NativeProgram) -> None:
        super().__init__(program._template, program._blueprint, program._engine.guest_memory, program._memory)
        self._weighs(program._blueprint.code.memory_bytes)
        self.job: _Job | None = None
        self._program = program
        program._instances.add(self)
        program._schedule.instances += 1
        self._counted = True

    def close(self) -> None:
        job = self.job
        if job is None:
            self._uncount()
            if self.alive:
                self.stop()
                self._weighs(0)  # at once, for whatever it makes room for; it is freed in a moment
                self._program._schedule.free(self._program._account, self)
        else:
            self.stop()
            job.refuse(UnavailableError("the instance was ended while it worked"))

    def left(self) -> None:
        """Called when a call that was not done at once has left the instance. The instance may be dead."""
        self.job = None
        self.epoch = -1  # the next call enters anew, and is weighed
        if self.alive:
            self._weighs(self.size())
        else:
            self._uncount()

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self._program._instances.discard(self)
            self._program._schedule.instances -= 1
            self._program._engine.room.give(self._program)
