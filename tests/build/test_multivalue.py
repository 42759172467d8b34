"""Relinked modules are compiled and run: a rewriting that is wrong by one byte does not validate."""

from __future__ import annotations

import pytest
import wasmtime

from insula.build.multivalue import link_host_import
from insula.errors import InsulaError

#: Calls the shim from functions with every shape of immediate before it, and a constant that only looks like the call.
_MODULE = """
(module
  (type $shim (func (param i32 i32 i32)))
  {padding}
  (import "insula_shim" "run_host_api" (func $shim (type $shim)))
  (import "env" "tick" (func $tick))
  (memory (export "memory") 1)
  (table 2 funcref)
  (elem (i32.const 0) $plain $plain)
  (func $plain (result i32) (i32.const 7))
  (func $ask (param i32 i32) (result i64)
    (local i64 f32 f64)
    (call $tick)
    (f64.const 1e300) (drop) (f32.const 0.5) (drop)
    (i64.const 0x7fffffffffff1010) (drop) (i32.const 0x1010) (drop)
    (block $out (result i32)
      (block $a (block $b (br_table $a $b $a (i32.const 1))))
      (drop (call_indirect (result i32) (i32.const 1)))
      (select (result i32) (i32.const 4) (i32.const 5) (i32.const 1)))
    (drop)
    (memory.fill (i32.const 64) (i32.const 16) (i32.const 32))
    (memory.copy (i32.const 128) (i32.const 64) (i32.const 8))
    (drop (i32.trunc_sat_f64_s (f64.const 3)))
    (drop (i32.extend8_s (i32.const 3)))
    (call $shim (local.get 0) (local.get 1) (i32.const 256))
    (i64.or
      (i64.shl (i64.extend_i32_u (i32.load (i32.const 256))) (i64.const 32))
      (i64.load32_u offset=4 (i32.const 256))))
  (func (export "ask") (param i32 i32) (result i64) (call $ask (local.get 0) (local.get 1)))
  (func (export "plain") (result i32) (call $plain))
)
"""


def _module(imports_before: int) -> bytes:
    padding = "\n".join(f'(import "env" "f{number}" (func))' for number in range(imports_before))
    return bytes(wasmtime.wat2wasm(_MODULE.replace("{padding}", padding)))


@pytest.mark.parametrize("imports_before", [0, 16, 127, 128, 300])
def test_the_real_import_is_called_and_its_results_are_stored(imports_before: int) -> None:
    engine = wasmtime.Engine()
    module = wasmtime.Module(engine, link_host_import(_module(imports_before)))
    names = [(entry.module, entry.name) for entry in module.imports if entry.module != "env"]
    assert names == [("okra", "run_host_api")]

    store = wasmtime.Store(engine)
    linker = wasmtime.Linker(engine)
    pair = wasmtime.FuncType([wasmtime.ValType.i32()] * 2, [wasmtime.ValType.i32()] * 2)
    linker.define_func("okra", "run_host_api", pair, lambda first, second: [first * 2, second + 1])
    nothing = wasmtime.FuncType([], [])
    for name in ["tick", *(f"f{number}" for number in range(imports_before))]:
        linker.define_func("env", name, nothing, lambda: None)
    exports = linker.instantiate(store, module).exports(store)
    ask, plain = exports["ask"], exports["plain"]
    assert isinstance(ask, wasmtime.Func)
    assert isinstance(plain, wasmtime.Func)
    assert ask(store, 1000, 5) == 2000 << 32 | 6
    assert plain(store) == 7


def test_a_module_without_the_shim_stays_as_it_is() -> None:
    for text in ("(module)", '(module (import "okra" "run_host_api" (func (param i32 i32) (result i32 i32))))'):
        wasm = bytes(wasmtime.wat2wasm(text))
        assert link_host_import(wasm) == wasm


def test_custom_sections_are_kept() -> None:
    custom = b"\x00\x07\x04note\x01\x02"
    linked = link_host_import(_module(0) + custom)
    assert linked.endswith(custom)


def test_an_unknown_instruction_ends_the_build() -> None:
    wasm = bytes(
        wasmtime.wat2wasm(
            '(module (import "insula_shim" "run_host_api" (func $s (param i32 i32 i32))) (func '
            "(drop (v128.const i64x2 0 0)) (call $s (i32.const 0) (i32.const 0) (i32.const 0))))"
        )
    )
    with pytest.raises(InsulaError, match="0xFD"):
        link_host_import(wasm)


def test_an_instruction_of_a_function_without_the_call_does_not_matter() -> None:
    wasm = bytes(
        wasmtime.wat2wasm(
            '(module (import "insula_shim" "run_host_api" (func $s (param i32 i32 i32))) (memory 1)'
            "(func (drop (v128.const i64x2 -1 -1)))"
            "(func (call $s (i32.const 0) (i32.const 0) (i32.const 0))))"
        )
    )
    wasmtime.Module.validate(wasmtime.Engine(), link_host_import(wasm))
