"""The engine without HTTP: what a call, a wait and a fresh instance cost beside the least that they could.

- dispatch: a Call in and its Reply out of a service, beside the same guest entered by hand through the C API, buffers
  laid out and nothing checked. For a guest with the one-call entry and for one without.
- a host call that waits, beside a task that awaits the same.
- a thousand guests that each wait 50 ms on the host, together.
- calls with a fresh instance each: whether memory grows.

`python -m bench.engine [ROUNDS]`. Times are of this thread's processor where nothing waits, rounds interleaved.
"""

from __future__ import annotations

import asyncio
import ctypes
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil
import uvloop
import wasmtime

from insula import interpreter
from insula.abi.okra import OkraAbi
from insula.calls import Call, Reply, ServiceId
from insula.services.service import Service, ServiceOptions
from insula.wasm.contract import Exchange, GuestLimits, HostFunction, Program, WasiOptions
from insula.wasm.engine import NativeEngine, OwnedInstance

BODY = b'{"a":20,"b":22}'
CALLS = 4000

#: A guest that echoes: memory by a pointer that only grows, and is set back when something is freed.
ECHO = """(module {imports} (memory (export "memory") 4) (global $next (mut i32) (i32.const 65536))
  (func $allocate (export "allocate") (param $size i32) (result i32)
    (global.get $next) (global.set $next (i32.add (global.get $next) (local.get $size))))
  (func (export "deallocate") (param i32) (global.set $next (i32.const 65536)))
  (func (export "handle_request") (param i32 i32 i32 i32) (result i64) (local $to i32) {call}
    (local.set $to (call $allocate (local.get 3)))
    (memory.copy (local.get $to) (local.get 2) (local.get 3))
    (i64.or (i64.shl (i64.extend_i32_u (local.get $to)) (i64.const 32)) (i64.extend_i32_u (local.get 3))))
  {more})"""
ONE_CALL = """(func (export "insula_input") (param i32) (result i32) (i32.const 131072))
  (func (export "insula_call") (param i32 i32) (result i64) {call}
    (i64.or (i64.shl (i64.const 131072) (i64.const 32)) (i64.extend_i32_u (local.get 1))))"""
IMPORT = '(import "okra" "run_host_api" (func $host (param i32 i32) (result i32 i32)))'
#: How often a call of the guest that waits calls the host.
TIMES = 20
HOST_CALLS = f"""(local $n i32) (loop (call $host (i32.const 131072) (i32.const 15)) drop drop
  (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const {TIMES}))))"""
HOST_CALL = "(call $host (i32.const 131072) (i32.const 15)) drop drop"


@dataclass
class Made:
    """A started service, and what it is made of."""

    service: Service
    program: Program
    exchange: Exchange

    async def instance(self) -> OwnedInstance:
        """An instance of its own."""
        made = await self.program.instantiate()
        assert isinstance(made, OwnedInstance)
        return made

    async def reply(self, asked: Call) -> Reply:
        """The reply, waited for."""
        answer = self.service.submit(asked)
        return answer if isinstance(answer, Reply) else await answer


async def make(
    engine: NativeEngine,
    folder: Path,
    *,
    one_call: bool = False,
    host: HostFunction | None = None,
    calls: str = HOST_CALL,
    instances: int = 1,
) -> Made:
    """A service of the echo guest, which calls `host`, where there is one, by `calls`."""
    calls = calls if host else ""
    text = ECHO.format(
        imports=IMPORT if host else "",
        call="" if one_call else calls,
        more=ONE_CALL.replace("{call}", calls) if one_call else "",
    )
    path = folder / "guest.wasm"
    path.write_bytes(wasmtime.wat2wasm(text))
    module = await engine.load(path, sha256(path.read_bytes()).hexdigest())
    abi = OkraAbi()
    program = engine.link(module, abi.imports({"run_host_api": host} if host else {}), GuestLimits(), WasiOptions())
    exchange = abi.exchange(module.exports, "echo", 0)
    service = Service(
        ServiceId("bench", "Echo", "v1"),
        program,
        {"echo": exchange},
        ServiceOptions(min_instances=instances, max_instances=instances, mailbox=instances),
    )
    await service.start()
    return Made(service, program, exchange)


def call() -> Call:
    return Call(ServiceId("bench", "Echo", "v1"), "echo", BODY, time.monotonic() + 60)


async def interleaved(
    rounds: int, count: int, clock: Callable[[], float], *subjects: Callable[[int], Awaitable[None]]
) -> list[float]:
    """Medians of microseconds a call, of several that run `count` calls each in turn."""
    spent: list[list[float]] = [[] for _ in subjects]
    for _ in range(rounds + 1):
        for subject, values in zip(subjects, spent, strict=True):
            began = clock()
            await subject(count)
            values.append((clock() - began) / count * 1e6)
    return [statistics.median(values[1:]) for values in spent]


def bare_exchange(instance: OwnedInstance, *, one_call: bool) -> Callable[[], bytes]:
    """The exchange as one would write it for this guest alone: raw calls, a buffer, and nothing checked."""
    library = ctypes.CDLL(wasmtime._ffi.dll._name)
    enter = library["wasmtime_func_call_unchecked"]
    context, pointer, trap, room = instance._context, ctypes.byref(instance._raw), instance._trap, ctypes.c_size_t(4)
    words = (ctypes.c_uint32 * 16).from_buffer(instance._raw)
    base = library["wasmtime_memory_data"]
    base.restype = ctypes.c_void_p
    start: int = base(context, instance._memory)
    library["wasmtime_context_set_epoch_deadline"](context, ctypes.c_uint64(1 << 40))
    move, copy, size = ctypes.memmove, ctypes.string_at, len(BODY)

    def one() -> bytes:
        move(start + 131072, BODY, size)
        words[0], words[4] = 0, size
        enter(context, call, pointer, room, trap)
        return copy(start + words[1], words[0])

    def allocate(data: bytes) -> int:
        words[0] = len(data)
        enter(context, allocates, pointer, room, trap)
        at = words[0]
        move(start + at, data, len(data))
        return at

    def six() -> bytes:
        method, body = allocate(b"echo"), allocate(BODY)
        words[0], words[4], words[8], words[12] = method, 4, body, size
        enter(context, handles, pointer, room, trap)
        length, at = words[0], words[1]
        answer = copy(start + at, length)
        for used in (method, body, at):
            words[0] = used
            enter(context, frees, pointer, room, trap)
        return answer

    if one_call:
        call = instance._entry("insula_call").raw[1]
        assert one() == BODY
        return one
    allocates, handles, frees = (instance._entry(name).raw[1] for name in ("allocate", "handle_request", "deallocate"))
    assert six() == BODY
    return six


async def dispatch(engine: NativeEngine, folder: Path, rounds: int, *, one_call: bool) -> None:
    """The first section."""
    made = await make(engine, folder, one_call=one_call)
    asked = call()

    async def whole(count: int) -> None:
        for _ in range(count):
            answer = made.service.submit(asked)
            if not isinstance(answer, Reply):  # its slice was over: the machine is busy
                await answer

    by_hand = bare_exchange(await made.instance(), one_call=one_call)

    async def bare(count: int) -> None:
        for _ in range(count):
            by_hand()

    floor, ours = await interleaved(rounds, CALLS, time.thread_time, bare, whole)
    name = "one call" if one_call else "six calls"
    print(f"{'dispatch, ' + name:34}{ours:>9.2f}{floor:>9.2f}{ours / floor:>8.2f}  by hand")


async def waits(engine: NativeEngine, folder: Path, rounds: int) -> None:
    """The second section."""

    async def nothing() -> bytes:
        await asyncio.sleep(0)
        return b"{}"

    made = await make(engine, folder, host=lambda scope, request: nothing(), calls=HOST_CALLS, one_call=True)
    asked = call()

    async def guest(count: int) -> None:
        for _ in range(count // TIMES):
            await made.reply(asked)

    async def task(count: int) -> None:
        for _ in range(count):
            await asyncio.ensure_future(nothing())

    floor, ours = await interleaved(rounds, CALLS, time.thread_time, task, guest)
    print(f"{'a host call that waits':34}{ours:>9.2f}{floor:>9.2f}{ours - floor:>+8.2f}  a task")


async def together(engine: NativeEngine, folder: Path, rounds: int) -> None:
    """The third section."""
    guests = 1000

    async def wait() -> bytes:
        await asyncio.sleep(0.05)
        return b"{}"

    made = await make(engine, folder, host=lambda scope, request: wait(), one_call=True, instances=guests)

    async def all_guests(_count: int) -> None:
        asked = call()
        await asyncio.gather(*(made.reply(asked) for _ in range(guests)))

    async def all_tasks(_count: int) -> None:
        await asyncio.gather(*(wait() for _ in range(guests)))

    floor, ours = await interleaved(rounds, 1000, time.perf_counter, all_tasks, all_guests)
    print(f"{'1,000 guests that wait 50 ms, ms':34}{ours:>9.1f}{floor:>9.1f}{ours / floor:>8.2f}  as many tasks")


async def fresh(engine: NativeEngine, folder: Path) -> None:
    """The fourth section."""
    made = await make(engine, folder)
    run = made.program.runner(made.exchange)
    process = psutil.Process()

    async def some(count: int) -> int:
        for _ in range(count):
            instance = await made.instance()
            answer = run(instance, BODY, None, time.monotonic() + 60)
            if not isinstance(answer, bytes):
                await answer
            instance.close()
        return int(process.memory_info().rss)

    before, began = await some(2000), time.perf_counter()
    after = await some(20_000)
    each = (time.perf_counter() - began) / 20_000 * 1e6
    print(
        f"{'20,000 fresh instances, resident MB':34}{after / 1e6:>9.1f}{before / 1e6:>9.1f}{after / before:>8.3f}  before"
    )
    print(f"{'a fresh instance and a call, us':34}{each:>9.1f}")


async def run(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = await NativeEngine.open(Path(folder) / "code")
        print(f"\n{'the engine alone, us a call':34}{'insula':>9}{'floor':>9}{'ratio':>8}")
        for one_call in (True, False):
            await dispatch(engine, Path(folder), rounds, one_call=one_call)
        await waits(engine, Path(folder), rounds)
        await together(engine, Path(folder), max(3, rounds // 3))
        await fresh(engine, Path(folder))
        await engine.close()


def main(rounds: int = 9) -> None:
    """Prints the sections. The garbage collector is a server's."""
    interpreter.serving()
    uvloop.run(run(rounds))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
