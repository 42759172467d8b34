"""Exports, memory and handles before and after their time: refused in plain words, where the C API would end the process.

What could end a process is tried in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from insula.abi.okra import OkraAbi
from insula.calls import Call, ServiceId
from insula.errors import GuestError, PackageError
from insula.host.broker import Broker
from insula.host.scope import Home, Phase, Scope
from insula.wasm.contract import Engine, GuestLimits, Program, Signature, WasiOptions
from insula.wasm.wasi import MODULE
from tests.guests import digest, wat
from tests.wasm.test_contract import Steps, run

SERVICE = ServiceId("test", "Early", "v1")

ALLOCATE = """
  (global $next (mut i32) (i32.const 1024))
  (func $allocate (export "allocate") (param $n i32) (result i32)
    (global.get $next) (global.set $next (i32.add (global.get $next) (local.get $n))))
  (func (export "deallocate") (param i32))
  (func (export "handle_request") (param i32 i32 i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (global.get $got)) (i64.const 32)) (i64.extend_i32_u (global.get $length))))
  (global $got (mut i32) (i32.const 0)) (global $length (mut i32) (i32.const 0))
"""


async def okra(engine: Engine, text: str, *, waits: bool = False) -> Program:
    """A program of okra's ABI, over a broker without a single capability."""
    broker = Broker(SERVICE, {}, frozenset({"okra.log"}))
    functions: dict[str, Any] = dict(broker.functions())

    async def later(scope: Any, request: bytes) -> bytes:
        return b"{}"

    if waits:
        functions = {"run_host_api": later, "next": later}
    path = wat(text)
    module = await engine.load(path, digest(path))
    return engine.link(module, OkraAbi().imports(functions), GuestLimits(), WasiOptions())


def module(call: str, body: str) -> str:
    """A module that imports a host function, with a request in its memory at 16."""
    request = '{\\"api\\":\\"okra.log\\",\\"method\\":\\"write\\",\\"parameters\\":{}}'
    size = len(request.replace("\\", ""))
    return f"""(module (import "okra" "{call}" (func $host (param i32 i32) (result i32 i32)))
      (memory (export "memory") 2) (data (i32.const 16) "{request}") {ALLOCATE}
      (func $ask (call $host (i32.const 16) (i32.const {size})) (global.set $length) (global.set $got))
      {body})"""


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("call", ["run_host_api", "next"])
async def test_a_start_function_that_calls_the_host_is_refused(engine: Engine, call: str, waits: bool) -> None:
    program = await okra(engine, module(call, "(start $ask)"), waits=waits)
    with pytest.raises(GuestError, match=f"start function calls okra.{call}") as caught:
        await program.instantiate()
    assert caught.value.reason == "start"


async def test_a_start_function_that_calls_the_host_only_later_is_refused_only_then(engine: Engine) -> None:
    """One instance in some calls it: by a random number."""
    text = module("run_host_api", "(func $start (if (i32.load8_u (i32.const 8)) (then (call $ask)))) (start $start)")
    await (await okra(engine, text)).instantiate()
    with pytest.raises(GuestError, match="start function"):
        await (await okra(engine, text.replace("(i32.const 8)", "(i32.const 16)"))).instantiate()


async def test_the_start_function_may_use_wasi(engine: Engine) -> None:
    names = {"random_get": 2, "clock_time_get": 3, "fd_write": 4, "poll_oneoff": 4, "args_sizes_get": 2}
    kinds = {"clock_time_get": "i32 i64 i32"}
    imports = "".join(
        f'(import "{MODULE}" "{name}" (func ${name} (param {kinds.get(name, "i32 " * count)}) (result i32)))'
        for name, count in names.items()
    )
    text = f"""(module {imports} (memory (export "memory") 1)
      (data (i32.const 128) "\\00\\02\\00\\00\\03\\00\\00\\00") (data (i32.const 512) "hi\\n")
      (func $start
        (i32.store (i32.const 0) (i32.or (call $random_get (i32.const 1000) (i32.const 8))
          (i32.or (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 2000))
            (call $fd_write (i32.const 1) (i32.const 128) (i32.const 1) (i32.const 3000)))))
        (i64.store (i32.const 4120) (i64.const 2000000))
        (i32.store (i32.const 4112) (i32.const 1))
        (i32.store (i32.const 4) (call $poll_oneoff (i32.const 4096) (i32.const 5000) (i32.const 1) (i32.const 6000)))
        (i32.store (i32.const 8) (call $random_get (i32.const 65530) (i32.const 100)))
        (i32.store (i32.const 12) (memory.grow (i32.const 1)))
        (i32.store (i32.const 16) (call $random_get (i32.const 65530) (i32.const 100))))
      (start $start)
      (func (export "go") (result i32)
        (i32.add (i32.load (i32.const 0)) (i32.add (i32.mul (i32.const 10) (i32.load (i32.const 4)))
          (i32.add (i32.mul (i32.const 100) (i32.load (i32.const 8))) (i32.load (i32.const 16)))))))"""
    path = wat(text)
    lines: list[bytes] = []
    options = WasiOptions(write=lambda fd, line: lines.append(line))
    program = engine.link(await engine.load(path, digest(path)), [], GuestLimits(), options)
    assert await run(program, Steps("go")) == b"2100", "EFAULT where the memory ends, and there once it has grown"
    assert lines == [b"hi"]


@pytest.mark.parametrize(
    ("end", "match"),
    [("unreachable", "unreachable"), ("(call $exit (i32.const 3))", "exit code 3"), ("(loop (br 0))", "did not start")],
)
async def test_a_start_function_that_fails_is_a_start_that_failed(engine: Engine, end: str, match: str) -> None:
    text = f"""(module (import "{MODULE}" "proc_exit" (func $exit (param i32))) (memory (export "memory") 1)
      (func $start {end}) (start $start))"""
    path = wat(text)
    program = engine.link(await engine.load(path, digest(path)), [], GuestLimits(start_timeout=0.3), WasiOptions())
    with pytest.raises(Exception, match=match):
        await program.instantiate()


@pytest.mark.parametrize("waits", [False, True])
async def test_an_initialiser_that_calls_the_host_is_answered(
    engine: Engine, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """There is a scope while an instance starts; here nothing is granted, so that is what the guest is told."""
    for call in ("run_host_api", "next"):
        program = await okra(engine, module(call, '(func (export "_initialize") (call $ask))'), waits=waits)
        scope = Scope(SERVICE, Call(SERVICE, "", b"", time.monotonic() + 10.0), Home(SERVICE), Phase.START)
        instance = await program.instantiate(scope)
        assert scope.host_calls == 1
        abi = OkraAbi()
        exports = {"handle_request": Signature()}
        answer = program.runner(abi.exchange(exports, "m", 0))(instance, b"{}", None, 1e12)
        told = answer if isinstance(answer, bytes) else await answer
        refused = {"run_host_api": b"POLICY_DENIED", "next": b"INVALID_PARAMETERS"}[call]
        assert told == b"{}" if waits else b'"code":"%b"' % refused in told
        instance.close()
    assert not caplog.records


# In a process of their own

DYING = {
    "export before": "cell._export('memory')",
    "call before": "cell.call('go')",
    "launch before": "cell.launch('go', ())",
    "poll before": "cell.poll()",
    "resume after the end": "whole(); cell.poll()",
    "made twice": "whole(); cell.instantiate(); cell.poll(); cell.poll()",
    "made twice at once": "cell.instantiate(); cell.instantiate(); cell.poll()",
    "export of what failed": "failed(); cell._export('go')",
    "call of what failed": "failed(); cell.call('go')",
    "export after": "whole(); cell.dispose(); cell._export('memory')",
    "call after": "whole(); cell.call('go'); cell.dispose(); cell.call('go')",
    "launch after": "whole(); cell.launch('go', ()); cell.dispose(); cell.launch('go', ())",
    "first call after": "whole(); cell.dispose(); cell.first_call('go')",
    "poll after": "cell.instantiate(); cell.dispose(); cell.poll()",
    "slice after": "whole(); cell.dispose(); [cell.slice() for _ in range(1000)]",
    "made after": "cell.dispose(); cell.instantiate(); cell.poll()",
    "freed from within": "whole(); within.append(1); cell.call('ask')",
    "read after": "whole(); cell.dispose(); cell.peek(0, 1)",
}

SCRIPT = """
import sys
import time
import wasmtime
from insula.errors import InsulaError
from insula.wasm.machine import machine
from insula.wasm.native.callbacks import now
from insula.wasm.native.template import Definition, Template
from insula.wasm.contract import Signature
from tests.wasm.bare import BareCell
TEXT = '''(module (import "t" "h" (func $h)) (memory (export "memory") 1) (func (export "go"))
  (func (export "ask") (call $h)) %s)'''
within = []
def host(cell, args):
    if within:
        cell.depth += 1
        try:
            cell.dispose()
        finally:
            cell.depth -= 1
    return ()
def make(start):
    module = wasmtime.Module(machine().engine, TEXT % start)
    definition = Definition("t", "h", Signature(), now(Signature(), host), False)
    exports = {"go": Signature(), "ask": Signature()}
    return BareCell(Template(module, exports, [definition], memory_bytes=1 << 20, table_elements=10))
cell = make("(func $s (unreachable)) (start $s)" if "failed()" in sys.argv[1] else "")
def whole():
    cell.instantiate()
    assert cell.poll() is not None
    cell.find_exports()
def failed():
    cell.instantiate()
    try:
        cell.poll()
    except Exception as error:
        print("failed", end=" ")
try:
    exec(sys.argv[1])
except (InsulaError, RuntimeError) as error:
    print("refused")
cell.dispose()
"""


@pytest.mark.parametrize("what", DYING.values(), ids=DYING.keys())
def test_what_comes_before_or_after_its_time_is_refused(what: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, what], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1:] == ["refused"], done.stdout


KINDS = """
import asyncio, sys, tempfile
from pathlib import Path
from insula.errors import InsulaError
from insula.wasm.contract import GuestLimits, WasiOptions
from insula.wasm.engine import NativeEngine
from tests.guests import digest, wat

TEXT = '''(module (memory (export "memory") 1 65536) (table (export "t") 3 funcref) (table (export "e") 2 funcref)
  (global (export "v") (mut v128) (v128.const i64x2 1 2)) (global (export "r") funcref (ref.null func))
  (global (export "f") f64 (f64.const 1))
  (func (export "vector") (result v128) (v128.const i64x2 -1 -1))
  (func (export "function") (result funcref) (ref.func 0))
  (func (export "floats") (result f32 f64) (f32.const 1) (f64.const 2))
  (func (export "all") (result i32 v128 funcref f64 i64)
    (i32.const 1) (v128.const i64x2 -1 -1) (ref.func 0) (f64.const 2) (i64.const 3))
  (func (export "takes") (param v128 funcref)) (func (export "float") (param f32))
  (func (export "\\\\00\\\\7f\\\\c3\\\\a9\\\\f0\\\\9f\\\\98\\\\80") (result i32) (i32.const 5))
  (func (export "") (result i32) (i32.const 6)))'''

async def main():
    with tempfile.TemporaryDirectory() as folder:
        engine = await NativeEngine.open(Path(folder) / "cache")
        path = wat(TEXT)
        module = await engine.load(path, digest(path))
        program = engine.link(module, [], GuestLimits(), WasiOptions())
        instance = await program.instantiate()
        for name, *args in (("vector",), ("function",), ("floats",), ("all",), ("takes", 1, 2), ("float", 1),
                ("\\0\\x7f\\xe9\\U0001f600",), ("",), ("memory",), ("t",), ("v",), ("\\ud800",), ("x" * 100_000,)):
            for way in (instance.call, instance.first_call, lambda name, *args: instance.launch(name, args)):
                try:
                    print(way(name, *args), end=" ")
                except InsulaError:
                    print("-", end=" ")
        await engine.close()

asyncio.run(main())
"""


def test_types_and_names_of_every_kind() -> None:
    """Results that are no integers are left out; parameters that are none are refused; so are names of nothing."""
    done = subprocess.run([sys.executable, "-c", KINDS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0"] * 12 + ["-"] * 6 + ["5"] * 3 + ["6"] * 3 + ["-"] * 15


@pytest.mark.parametrize("kind", ["v128", "funcref"])
async def test_an_import_of_vectors_or_references_is_refused(engine: Engine, kind: str) -> None:
    for module in ("okra", MODULE, "env"):
        path = wat(f'(module (import "{module}" "f" (func (param {kind}))) (memory (export "memory") 1))')
        with pytest.raises(PackageError, match="vectors or references"):
            await engine.load(path, digest(path))
