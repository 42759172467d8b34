"""What every engine promises: guests that answer, and guests that misbehave in every way there is."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from insula.errors import (
    Code,
    DeadlineError,
    GuestError,
    InsulaError,
    LimitError,
    PackageError,
    UnavailableError,
)
from insula.wasm.contract import Engine, Guest, GuestLimits, HostImport, Program, RefusalError, Signature, WasiOptions
from insula.wasm.pace import Pace
from tests.guests import digest, wat
from tests.wasm.rig import Rig


class Steps:
    """An exchange without an ABI: calls one export with these arguments."""

    def __init__(self, export: str, *args: int) -> None:
        self.export = export
        self.number = None
        self.pace = Pace()
        self._args = args

    def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
        return self._args

    def finish(self, guest: Guest, args: tuple[int, ...], result: int) -> bytes:
        return str(result).encode()


async def well(rig: Rig) -> None:
    """No thread is held, and the next instance answers rightly."""
    assert await rig.free()
    assert await rig.call("echo", b'{"after":1}') == b'{"after":1}'


# Guests that answer


async def test_it_answers_and_the_instance_is_used_again(rig: Rig) -> None:
    instance = await rig.instance()
    for n in range(1, 4):
        assert await rig.on_instance(instance, "count") == str(n).encode()
    assert instance.alive
    instance.close()


async def test_empty_input_and_an_answer_in_the_input_itself(rig: Rig) -> None:
    assert await rig.call("echo", b"") == b""
    assert await rig.call("same", b'{"x":1}') == b'{"x":1}'


async def test_a_large_answer_passes_and_a_larger_one_does_not(rig: Rig) -> None:
    assert len(await rig.call("big", str(4 << 20).encode())) == 4 << 20
    with pytest.raises(LimitError, match="4194305 bytes") as caught:
        await rig.call("big", str((4 << 20) + 1).encode())
    assert caught.value.reason == "output_limit"
    await well(rig)


async def test_memory_that_grew_is_read_where_it_is(rig: Rig) -> None:
    instance = await rig.instance()
    assert await rig.on_instance(instance, "grow", b"20") == b"true"
    assert await rig.on_instance(instance, "echo", b"[1]") == b"[1]"
    instance.close()


async def test_many_instances_work_at_once(rig: Rig) -> None:
    async def echo(n: int) -> bytes:
        return await rig.call("echo", str(n).encode())

    assert await asyncio.gather(*map(echo, range(50))) == [str(n).encode() for n in range(50)]


async def test_a_guest_is_not_told_of_its_refusals(rig: Rig) -> None:
    instance = await rig.instance()
    with pytest.raises(RefusalError, match="no such order"):
        await rig.on_instance(instance, "refuse")
    assert instance.alive
    assert await rig.on_instance(instance, "count") == b"2"
    instance.close()


async def test_wasi_reaches_the_guest(rig: Rig) -> None:
    assert await rig.call("env", b"COLOUR") == b"blue"
    assert await rig.call("env", b"HOME") == b"null"
    assert abs(int(await rig.call("time")) - time.time()) < 100
    assert await rig.call("random") == b"1"
    assert await rig.call("stdin") == b"0"
    assert await rig.call("file", b"/etc/passwd") == b"false"
    assert await rig.call("sleep", b"5") == b"true"
    await rig.call("print", b"2")
    assert rig.lines == [(1, b"line 0"), (1, b"line 1"), (2, b"done")]


# Guests that misbehave


@pytest.mark.parametrize(
    ("method", "payload", "text"),
    [
        ("trap", b"", "unreachable"),
        ("wild", b"", "memory that it does not have"),
        ("table", b"", "table entry"),
        ("divide", b"1", "divided by zero"),
        ("overflow", b"1", "overflowed its stack"),
        ("exit", b"3", "exit code 3"),
        ("exit", b"0", "exit code 0"),
        ("badptr", b"", "outside its memory"),
        ("hugelen", b"", "4294967295 bytes"),
        ("refuse_badly", b"", "not JSON of the form"),
        ("host_wild", b"", "4294967295 bytes"),
    ],
)
async def test_a_broken_guest_is_internal_and_ends(rig: Rig, method: str, payload: bytes, text: str) -> None:
    instance = await rig.instance()
    with pytest.raises(GuestError, match=text) as caught:
        await rig.on_instance(instance, method, payload)
    assert caught.value.code is Code.INTERNAL
    assert "wasm function" not in str(caught.value)
    assert not instance.alive
    with pytest.raises(InsulaError):
        await rig.on_instance(instance, "echo")
    instance.close()
    await well(rig)


@pytest.mark.parametrize("method", ["bomb", "doubling"])
async def test_a_memory_bomb_is_resource_exhausted(rig: Rig, method: str) -> None:
    with pytest.raises(LimitError, match="memory had reached the limit"):
        await rig.call(method)
    await well(rig)


@pytest.mark.parametrize("method", ["bomb", "append"])
async def test_a_memory_bomb_in_go_is_resource_exhausted(gorig: Rig, method: str) -> None:
    with pytest.raises(LimitError, match="memory had reached the limit"):
        await gorig.call(method)
    assert any(b"out of memory" in line for _, line in gorig.lines)
    await well(gorig)


async def test_a_go_guest(gorig: Rig) -> None:
    instance = await gorig.instance()
    assert await gorig.on_instance(instance, "echo", b'{"a":1}') == b'{"a":1}'
    assert await gorig.on_instance(instance, "sleep", b"5") == b"true"
    assert await gorig.on_instance(instance, "print") == b"true"
    assert gorig.lines == [(1, b"a line of Go")]
    with pytest.raises(GuestError, match="aborted or panicked"):
        await gorig.on_instance(instance, "panic")
    assert any(b"panic: as asked" in line for _, line in gorig.lines)
    instance.close()
    with pytest.raises(GuestError, match="exit code 7"):
        await gorig.call("exit", b"7")
    with pytest.raises(DeadlineError):
        await gorig.call("loop", b"1", within=0.1)
    await well(gorig)


async def test_an_input_that_the_guest_has_no_memory_for(engine: Engine) -> None:
    rig = await Rig.on(engine, limits=GuestLimits(memory_bytes=20 << 20))
    with pytest.raises(LimitError, match="no memory"):
        await rig.call("echo", b"1" * (8 << 20))
    await well(rig)


async def test_a_trap_poisons_nothing_and_shows_nothing(rig: Rig) -> None:
    first = await rig.instance()
    assert await rig.on_instance(first, "keep", b"secret") == b"true"
    with pytest.raises(GuestError):
        await rig.on_instance(first, "trap")
    first.close()
    with pytest.raises(LimitError):
        await rig.call("bomb")
    assert await rig.call("kept") == b""
    assert await rig.call("count") == b"1"


# Time


@pytest.mark.parametrize(("method", "payload"), [("loop", b""), ("sleep", b"60000"), ("host_often", b"")])
async def test_the_answer_comes_by_the_deadline(rig: Rig, method: str, payload: bytes) -> None:
    instance = await rig.instance()
    with pytest.raises(DeadlineError):
        await rig.on_instance(instance, method, payload, within=0.1)
    assert not instance.alive
    instance.close()
    await well(rig)


async def test_loops_stop_neither_each_other_nor_anyone_else(rig: Rig) -> None:
    loops = [asyncio.ensure_future(rig.call("loop", within=0.4)) for _ in range(4)]
    while not all(loop.done() for loop in loops):
        await asyncio.sleep(0)  # an answer that is there at once leaves no room for timers
        assert await rig.call("echo", b"1") == b"1"
    for loop in loops:
        with pytest.raises(DeadlineError):
            await loop
    await well(rig)


async def test_a_deadline_that_has_passed_leaves_the_instance_alone(rig: Rig) -> None:
    instance = await rig.instance()
    with pytest.raises(DeadlineError):
        await rig.on_instance(instance, "echo", within=-1)
    assert instance.alive
    assert await rig.on_instance(instance, "count") == b"1"
    instance.close()


@pytest.mark.parametrize(("method", "payload"), [("loop", b""), ("sleep", b"60000"), ("host", b"wait")])
async def test_a_call_that_nobody_waits_for_is_stopped(rig: Rig, method: str, payload: bytes) -> None:
    inside = asyncio.Event()
    cancelled = asyncio.Event()

    async def answer() -> bytes:
        inside.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return b""

    rig.answer = lambda scope, request: answer()
    instance = await rig.instance()
    call = rig.start(instance, method, payload)
    assert not isinstance(call, bytes)
    if method == "host":
        await inside.wait()
    call.cancel()
    assert await rig.free()
    assert not instance.alive
    assert method != "host" or cancelled.is_set()
    instance.close()
    rig.answer = lambda scope, request: request
    await well(rig)


async def test_closing_an_instance_at_work_ends_the_call(rig: Rig) -> None:
    instance = await rig.instance()
    call = rig.start(instance, "loop")
    instance.close()
    instance.close()
    assert not isinstance(call, bytes)
    with pytest.raises(UnavailableError):
        await call
    await well(rig)


async def test_an_instance_has_one_owner_at_a_time(rig: Rig) -> None:
    instance = await rig.instance()
    call = rig.start(instance, "loop", within=0.2)
    with pytest.raises(InsulaError, match="in use"):
        rig.start(instance, "echo")
    assert not isinstance(call, bytes)
    with pytest.raises(DeadlineError):
        await call
    instance.close()


async def test_closing_the_engine_ends_everything(engine: Engine) -> None:
    before = set(threading.enumerate())
    rig = await Rig.on(engine)
    calls = [rig.start(await rig.instance(), method) for method in ("loop", "loop", "host_often")]
    await engine.close()
    for call in calls:
        assert not isinstance(call, bytes)
        with pytest.raises(UnavailableError):
            await call
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("insula-guest")]
    with pytest.raises(UnavailableError):
        rig.program.instantiate()


# Host functions


class Scope:
    def __init__(self) -> None:
        self.host_calls = 0


async def test_a_host_function_sees_the_scope_and_answers_now_or_later(rig: Rig) -> None:
    seen: list[Any] = []

    def answer(scope: Any, request: bytes) -> Any:
        seen.append((scope, request))
        return later(request) if request == b"later" else request

    async def later(request: bytes) -> bytes:
        await asyncio.sleep(0)
        return request * 2

    rig.answer = answer
    instance = await rig.instance()
    one, two = Scope(), Scope()
    assert await rig.on_instance(instance, "host", b"now", scope=one) == b"3"
    assert await rig.on_instance(instance, "host", b"later", scope=two) == b"10"
    assert seen == [(one, b"now"), (two, b"later")]
    assert (one.host_calls, two.host_calls) == (1, 1)
    instance.close()


class TestHostCalls:
    """The engine counts them, whatever the binding does."""

    GUEST = """(module (import "t" "h" (func $h (result i32))) (memory (export "memory") 1)
        (func $allocate (export "allocate") (param i32) (result i32) (i32.const 8))
        (func (export "_initialize") (drop (call $h)))
        (func (export "go") (result i32) (local $n i32) (local $sum i32)
          (loop (local.set $sum (i32.add (local.get $sum) (call $h)))
            (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 10))))
          (local.get $sum)))"""

    async def program(self, engine: Engine, most: int, **more: Any) -> Program:
        path = wat(self.GUEST)
        signature = Signature((), ("i32",))
        offered = HostImport(
            "t", "h", signature, lambda g, a: (), lambda s, r: 1, lambda g, a: (a,), answers=(int,), **more
        )
        module = await engine.load(path, digest(path))
        return engine.link(module, [offered], GuestLimits(host_calls=most), WasiOptions())

    async def go(self, program: Program, scope: Scope) -> bytes:
        instance = await program.instantiate(Scope())
        answer = program.runner(Steps("go"))(instance, b"", scope, time.monotonic() + 10)
        try:
            return answer if isinstance(answer, bytes) else await answer
        finally:
            instance.close()

    async def test_each_entry_may_make_so_many(self, engine: Engine) -> None:
        program = await self.program(engine, 10)
        for _ in range(2):
            scope = Scope()
            assert await self.go(program, scope) == b"10"
            assert scope.host_calls == 10

    async def test_one_more_is_told_as_the_binding_tells_it(self, engine: Engine) -> None:
        refused: list[InsulaError] = []

        def refuse(error: InsulaError) -> int:
            refused.append(error)
            return 100

        program = await self.program(engine, 8, refuse=refuse)
        assert await self.go(program, Scope()) == b"208"
        assert [(error.reason, error.code) for error in refused] == [("host_calls", Code.RESOURCE_EXHAUSTED)] * 2

    async def test_or_ends_the_guest(self, engine: Engine) -> None:
        program = await self.program(engine, 9)
        with pytest.raises(LimitError, match="one call may make 9 host calls"):
            await self.go(program, Scope())

    async def test_a_start_is_such_an_entry(self, engine: Engine) -> None:
        program = await self.program(engine, 10)
        scope = Scope()
        (await program.instantiate(scope)).close()
        assert scope.host_calls == 1
        program = await self.program(engine, 0)
        with pytest.raises(LimitError, match="host calls"):
            await program.instantiate(Scope())


@pytest.mark.parametrize("later", [False, True])
async def test_an_error_of_a_host_function_ends_the_call_with_it(rig: Rig, later: bool) -> None:
    async def fail() -> bytes:
        raise LimitError("too many nested calls")

    def fail_now(scope: Any, request: bytes) -> Any:
        if later:
            return fail()
        raise LimitError("too many nested calls")

    rig.answer = fail_now
    with pytest.raises(LimitError, match="too many nested calls"):
        await rig.call("host_often")
    rig.answer = lambda scope, request: request
    await well(rig)


@pytest.mark.parametrize("wrong", ["raise", "exit", "later", "type"])
async def test_a_bug_in_a_host_function_is_internal_and_not_told(
    rig: Rig, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> bytes:
        raise RuntimeError("the password is 1234")

    def answer(scope: Any, request: bytes) -> Any:
        match wrong:
            case "raise":
                raise RuntimeError("the password is 1234")
            case "exit":
                raise SystemExit("the password is 1234")
            case "later":
                return fail()
            case _:
                return "the password is 1234"

    rig.answer = answer
    with pytest.raises(InsulaError, match="error inside the server") as caught:
        await rig.call("host")
    assert caught.value.code is Code.INTERNAL
    assert "1234" not in str(caught.value)
    rig.answer = lambda scope, request: request
    await well(rig)


async def test_a_failed_host_call_is_not_followed_by_another(rig: Rig) -> None:
    calls = 0

    def answer(scope: Any, request: bytes) -> bytes:
        nonlocal calls
        calls += 1
        raise LimitError("enough")

    rig.answer = answer
    with pytest.raises(LimitError, match="enough"):
        await rig.call("host_often")
    assert calls == 1


async def test_helper_exports_may_not_call_the_host_without_end(engine: Engine) -> None:
    path = wat(
        """(module (import "t" "h" (func $h (param i32 i32) (result i32))) (memory (export "memory") 1)
             (func (export "allocate") (param i32) (result i32) (call $h (i32.const 0) (i32.const 1)))
             (func (export "go") (result i32) (call $h (i32.const 0) (i32.const 1))))"""
    )
    module = await engine.load(path, digest(path))

    def give(guest: Guest, answer: bytes) -> tuple[int, ...]:
        return (guest.call("allocate", 8),)

    signature = Signature(("i32", "i32"), ("i32",))
    offered = HostImport("t", "h", signature, lambda guest, args: guest.read(*args), lambda scope, data: data, give)
    program = engine.link(module, [offered], GuestLimits(), WasiOptions())
    with pytest.raises(GuestError, match="from within itself"):
        await run(program, Steps("go"))


@pytest.mark.parametrize("where", ["before", "under a host function", "in its sleep"])
async def test_a_helper_export_may_not_wait(engine: Engine, where: str) -> None:
    path = wat(
        """(module (import "t" "h" (func $h (param i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
             (memory (export "memory") 1) (data (i32.const 24) "\\00\\e1\\f5\\05") (data (i32.const 16) "\\01")
             (func (export "wait") (param i32) (result i32) (call $h (i32.const 0) (i32.const 1)))
             (func (export "nap") (param i32) (result i32)
               (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
             (func (export "go") (result i32) (call $h (i32.const 1) (i32.const 1))))"""
    )
    module = await engine.load(path, digest(path))
    helper = "nap" if where == "in its sleep" else "wait"

    class Early(Steps):
        def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
            return (guest.call(helper, 0),)[1:]

    async def later() -> bytes:
        return b""

    def host(scope: Any, request: bytes) -> Any:
        if where == "under a host function" and not nested:
            nested.append(True)
            return b""
        return later()

    nested: list[bool] = []
    signature = Signature(("i32", "i32"), ("i32",))
    offered = HostImport(
        "t", "h", signature, lambda guest, args: b"", host, lambda guest, answer: (guest.call(helper, 0),)
    )
    program = engine.link(module, [offered], GuestLimits(), WasiOptions())
    steps = Steps("go") if where == "under a host function" else Early("go")
    with pytest.raises(GuestError, match="helper export"):
        await run(program, steps)


async def run(program: Any, steps: Steps, *, within: float = 5.0) -> bytes:
    instance = await program.instantiate()
    answer = program.runner(steps)(instance, b"", None, time.monotonic() + within)
    try:
        return answer if isinstance(answer, bytes) else await answer
    finally:
        instance.close()


async def test_arguments_and_results_are_unsigned(engine: Engine) -> None:
    path = wat(
        """(module (import "t" "h" (func $h (param i32 i64) (result i64 i32))) (memory (export "memory") 1)
             (func (export "go") (result i64) (call $h (i32.const -1) (i64.const -1)) drop))"""
    )
    module = await engine.load(path, digest(path))
    seen: list[tuple[int, ...]] = []

    def take(guest: Guest, args: tuple[int, ...]) -> bytes:
        seen.append(args)
        return b""

    signature = Signature(("i32", "i64"), ("i64", "i32"))
    offered = HostImport("t", "h", signature, take, lambda s, d: d, lambda g, d: (2**64 - 2, 2**32 - 1))
    program = engine.link(module, [offered], GuestLimits(), WasiOptions())
    assert await run(program, Steps("go")) == str(2**64 - 2).encode()
    assert seen == [(2**32 - 1, 2**64 - 1)]


async def test_a_request_that_cannot_be_read_gives_zeros(engine: Engine) -> None:
    path = wat(
        """(module (import "t" "h" (func $h (param i32 i32) (result i32 i32))) (memory (export "memory") 1)
             (func (export "go") (result i32) (i32.add (call $h (i32.const -1) (i32.const -1)))))"""
    )
    module = await engine.load(path, digest(path))
    signature = Signature(("i32", "i32"), ("i32", "i32"))
    offered = HostImport("t", "h", signature, lambda guest, args: None, lambda s, d: d, lambda g, d: (1, 1))
    assert await run(engine.link(module, [offered], GuestLimits(), WasiOptions()), Steps("go")) == b"0"


# Starting


async def test_the_initialiser_runs_once_before_any_call(engine: Engine) -> None:
    path = wat(
        """(module (memory (export "memory") 1) (global $n (mut i32) (i32.const 0))
             (func (export "_start") unreachable)
             (func (export "_initialize") (global.set $n (i32.add (global.get $n) (i32.const 1))))
             (func (export "go") (result i32) (global.get $n)))"""
    )
    module = await engine.load(path, digest(path))
    assert await run(engine.link(module, [], GuestLimits(), WasiOptions()), Steps("go")) == b"1"


async def test_a_start_function_may_use_wasi_before_there_are_exports(engine: Engine) -> None:
    path = wat(
        """(module (import "wasi_snapshot_preview1" "random_get" (func $r (param i32 i32) (result i32)))
             (memory (export "memory") 1) (global $errno (mut i32) (i32.const 9)) (start $s)
             (func $s (global.set $errno (call $r (i32.const 0) (i32.const 8))))
             (func (export "go") (result i32) (global.get $errno)))"""
    )
    module = await engine.load(path, digest(path))
    assert await run(engine.link(module, [], GuestLimits(), WasiOptions()), Steps("go")) == b"0"


@pytest.mark.parametrize("where", ["_initialize", "start"])
@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ("unreachable", GuestError, "unreachable"),
        ("(loop (br 0))", DeadlineError, "did not start within 0.2 s"),
        ("(call $exit (i32.const 4))", GuestError, "exit code 4"),
    ],
)
async def test_a_guest_that_does_not_start(
    engine: Engine, where: str, body: str, error: type[InsulaError], text: str
) -> None:
    enter = "(start $f)" if where == "start" else '(export "_initialize" (func $f))'
    path = wat(
        f"""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
              (memory (export "memory") 1) (func $f {body}) {enter})"""
    )
    module = await engine.load(path, digest(path))
    program = engine.link(module, [], GuestLimits(start_timeout=0.2), WasiOptions())
    with pytest.raises(error, match=text):
        await program.instantiate()


async def test_tables_are_bounded(engine: Engine) -> None:
    path = wat('(module (table 5000 funcref) (memory (export "memory") 1))')
    module = await engine.load(path, digest(path))
    with pytest.raises(LimitError, match="larger table"):
        await engine.link(module, [], GuestLimits(table_elements=4999), WasiOptions()).instantiate()
    (await engine.link(module, [], GuestLimits(table_elements=5000), WasiOptions()).instantiate()).close()


async def test_a_table_bomb_gets_no_more_than_its_limit(engine: Engine) -> None:
    path = wat(
        """(module (table $t 1 funcref) (memory (export "memory") 1)
             (func (export "go") (result i32)
               (loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 100)) (i32.const -1))))
               (table.size $t)))"""
    )
    module = await engine.load(path, digest(path))
    program = engine.link(module, [], GuestLimits(table_elements=1000), WasiOptions())
    assert 900 < int(await run(program, Steps("go"))) <= 1000


# Linking


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('(import "env" "shout" (func (param i32)))', "imports env.shout, which nobody offers"),
        ('(import "wasi_snapshot_preview1" "fd_shout" (func))', "wasi_snapshot_preview1.fd_shout, which nobody offers"),
        (
            '(import "wasi_snapshot_preview1" "fd_close" (func (param i64) (result i32)))',
            r"fd_close as \(i64\) -> i32; it is \(i32\) -> i32",
        ),
        ('(import "t" "h" (func (param i32)))', r"t.h as \(i32\) -> \(\); it is \(\) -> \(\)"),
        ('(import "env" "memory" (memory 1))', "imports the memory env.memory; only functions"),
        ('(import "env" "table" (table 1 funcref))', "imports the table env.table; only functions"),
        ('(import "env" "base" (global i32))', "imports the global env.base; only functions"),
        ('(memory (export "memory") 2000)', "starts with 128000 KiB of memory and may have 65536 KiB"),
    ],
)
async def test_what_cannot_be_linked(engine: Engine, text: str, message: str) -> None:
    path = wat(f"(module {text})")
    module = await engine.load(path, digest(path))
    offered = HostImport("t", "h", Signature(), lambda g, a: b"", lambda s, d: d, lambda g, d: ())
    with pytest.raises(PackageError, match=message):
        engine.link(module, [offered], GuestLimits(), WasiOptions())


async def test_a_module_without_memory_can_still_be_called(engine: Engine) -> None:
    path = wat('(module (func (export "go") (result i32) (i32.const 7)))')
    module = await engine.load(path, digest(path))
    assert not module.has_memory
    assert await run(engine.link(module, [], GuestLimits(), WasiOptions()), Steps("go")) == b"7"
