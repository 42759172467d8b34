"""A guest on an engine, with one test host function, called by a method name as a service would call it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from insula.abi.okra import OkraAbi
from insula.wasm.contract import (
    Engine,
    Guest,
    GuestLimits,
    HostImport,
    Instance,
    Module,
    Program,
    Runner,
    Signature,
    WasiOptions,
)
from insula.wasm.engine import NativeEngine
from tests.guests import build_c, build_go, digest
from tests.wasm.reference.threads import ThreadEngine


class Rig:
    """`answer` is what the imported host function does; tests set it. `lines` is what the guest printed."""

    def __init__(self, engine: Engine, module: Module, limits: GuestLimits) -> None:
        self.engine = engine
        self.module = module
        self.lines: list[tuple[int, bytes]] = []
        self.answer: Any = lambda scope, request: request
        self.abi = OkraAbi()
        self.runners: dict[str, Runner] = {}
        self.abi.check(module.exports, module.has_memory)
        self.program = self.link(limits)

    @classmethod
    async def on(cls, engine: Engine, guest: str = "torture.c", limits: GuestLimits | None = None) -> Rig:
        path = await asyncio.to_thread(build_c if guest.endswith(".c") else build_go, guest)
        return cls(engine, await engine.load(path, digest(path)), limits or GuestLimits())

    def link(self, limits: GuestLimits) -> Program:
        offered = HostImport("test", "host", Signature(("i32", "i32"), ("i32",)), self._take, self._host, self._give)
        wasi = WasiOptions(("guest", "argument"), (("COLOUR", "blue"),), lambda fd, line: self.lines.append((fd, line)))
        return self.program_of([offered], limits, wasi)

    def program_of(self, imports: list[HostImport], limits: GuestLimits, wasi: WasiOptions) -> Program:
        return self.engine.link(self.module, imports, limits, wasi)

    async def instance(self) -> Instance:
        return await self.program.instantiate()

    def start(
        self, instance: Instance, method: str, payload: bytes = b"{}", *, within: float = 10.0, scope: Any = None
    ) -> bytes | asyncio.Future[bytes]:
        run = self.runners.get(method)
        if run is None:
            run = self.runners[method] = self.program.runner(self.abi.exchange(self.module.exports, method, 0))
        return run(instance, payload, scope, time.monotonic() + within)

    async def on_instance(
        self, instance: Instance, method: str, payload: bytes = b"{}", *, within: float = 10.0, scope: Any = None
    ) -> bytes:
        answer = self.start(instance, method, payload, within=within, scope=scope)
        return answer if isinstance(answer, bytes) else await answer

    async def call(self, method: str, payload: bytes = b"{}", *, within: float = 10.0) -> bytes:
        """One call of a fresh instance."""
        instance = await self.instance()
        try:
            return await self.on_instance(instance, method, payload, within=within)
        finally:
            instance.close()

    def _take(self, guest: Guest, args: tuple[int, ...]) -> bytes:
        return guest.read(*args)

    def _host(self, scope: Any, request: bytes) -> bytes | Awaitable[bytes]:
        answer: bytes | Awaitable[bytes] = self.answer(scope, request)
        return answer

    def _give(self, guest: Guest, answer: bytes) -> tuple[int, ...]:
        pointer = guest.call("allocate", len(answer) + 1)
        guest.write(pointer, answer)
        guest.call("deallocate", pointer)
        return (len(answer),)

    async def free(self) -> bool:
        """Waits until no thread is in a guest, and nothing runs for one; False where one stays."""
        if isinstance(self.engine, NativeEngine):
            return await self.engine.schedule.idle(5.0)
        assert isinstance(self.engine, ThreadEngine)
        return await self.engine.workers.idle(5.0)
