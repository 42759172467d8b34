"""Modules that note refused growth: the same in all else, whatever instructions and sections they have."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.errors import PackageError
from insula.wasm.config import make_config
from insula.wasm.contract import Engine
from insula.wasm.facts import Places
from insula.wasm.reader import Declared, UnreadableError
from insula.wasm.rewrite import ENTER, MAX_PLACES, REFUSED, Rewritten, rewrite
from tests.guests import build_c, build_go, digest, save, wat
from tests.wasm.test_modules import number, section

ENGINE = wasmtime.Engine(make_config())
GROW = "(drop (memory.grow (i32.const 0)))"

#: At least one of each shape of immediates, and constants that hold the bytes of a memory.grow.
INSTRUCTIONS = [
    "block unreachable end", "loop nop end", "if else end", "block (result i64) i64.const 64 end drop",
    "block (type $two) unreachable end", "br 0", "br_if 0", "br_table 0 0 0 0 0", "return", "call $wide",
    "call_indirect $t (type $two)", "return_call $number", "return_call_indirect $t (type $number)", "drop", "select",
    "select (result funcref)", "select (result v128)", "local.get $l", "local.set $v", "local.tee $r", "global.get $g",
    "global.set $g", "table.get $t", "table.set $t", "i32.load offset=64", "i64.load offset=8192 align=1",
    "f64.store offset=1048576", "i64.store32", "memory.size", "i32.const 8192", "i32.const -1", "i64.const 64",
    "i64.const -9223372036854775808", "f32.const 2", "f64.const 32", "i32.add", "i64.extend32_s", "i32.trunc_sat_f64_u",
    "i64.trunc_sat_f32_s", "ref.null func", "ref.is_null", "ref.func $none", "memory.init $d", "data.drop $d",
    "memory.copy", "memory.fill", "table.init $t $e", "elem.drop $e", "table.copy $t $t", "table.grow $t",
    "table.size $t", "table.fill $t", "v128.const i32x4 64 16384 4194304 0x40004000",
    "i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
    "v128.load offset=64", "v128.store", "v128.load8x8_s", "v128.load32_splat", "i8x16.swizzle", "i32x4.splat",
    "i8x16.extract_lane_s 3", "f64x2.replace_lane 1", "i8x16.eq", "v128.any_true", "v128.load8_lane 3",
    "v128.load64_lane offset=64 1", "v128.store16_lane 5", "v128.load32_zero", "v128.load64_zero",
    "f32x4.demote_f64x2_zero",
    "i8x16.popcnt", "i16x8.extmul_low_i8x16_s", "i32x4.dot_i16x8_s", "f64x2.convert_low_i32x4_u", "i64x2.all_true",
    "i8x16.relaxed_swizzle", "f32x4.relaxed_madd", "i32x4.relaxed_dot_i8x16_i7x16_add_s",
]  # fmt: skip


def module(body: str, *, functions: int = 0) -> bytes:
    return bytes(
        wasmtime.wat2wasm(f"""(module
          (type $none (func)) (type $number (func (result i32))) (type $two (func (param i32 i64) (result i64 i32)))
          (import "t" "h" (func (param i64)))
          (table $t 4 funcref) (memory (export "memory") 1) (global $g (mut i32) (i32.const 64))
          (data $d "\\40\\00") (elem $e func $none) (elem declare func $none)
          (func $none) (func $number (result i32) (i32.const 64)) (func $wide (type $two) (local.get 1) (local.get 0))
          {"(func)" * functions}
          (func (export "go") (result i32) (local $l i32) (local $v v128) (local $r funcref) (local i64 i64 f32 funcref)
            {body} unreachable)
          (func (export "size") (result i32) (memory.size))
          (func (export "wide") (type $two) (call $wide (local.get 0) (local.get 1)))
          (func (export "vector") (param v128)))""")
    )


def made(wasm: bytes, *, valid: bool = True) -> Rewritten:
    if valid:
        wasmtime.Module.validate(ENGINE, wasm)
    found = rewrite(wasm, Declared(wasm))
    assert found is not None
    wasmtime.Module.validate(ENGINE, found.wasm)
    return found


def calls_of_the_growing(found: Rewritten) -> int:
    return found.wasm.count(b"\x10" + number(found.functions))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(INSTRUCTIONS), st.booleans()), min_size=1), st.sampled_from([0, 100, 20_000]))
def test_every_growth_is_found_and_nothing_else(lines: list[tuple[str, bool]], functions: int) -> None:
    body = "\n".join(f"unreachable {line} unreachable {GROW if grows else ''}" for line, grows in lines)
    wasm = module(f"{body} {GROW}", functions=functions)
    assert calls_of_the_growing(made(wasm)) == 1 + sum(grows for _, grows in lines)


@pytest.mark.parametrize("line", INSTRUCTIONS)
def test_each_instruction_alone(line: str) -> None:
    assert calls_of_the_growing(made(module(f"unreachable {line} unreachable {GROW}"))) == 1
    wasm = module(f"unreachable {line} unreachable")
    assert rewrite(wasm, Declared(wasm)) is None


def of_body(body: bytes) -> bytes:
    """A module with a memory, a table and one function of this body."""
    code = number(1) + number(len(body)) + body
    return b"\0asm\1\0\0\0" + (
        section(1, b"\1\x60\0\0")
        + section(3, b"\1\0")
        + section(4, b"\1\x70\0\1")
        + section(5, b"\1\0\1")
        + section(10, code)
    )


@pytest.mark.parametrize(
    "body",
    [
        b"\x00\x41\x80\x80\x00\x40\x00\x1a\x0b",
        b"\x00\x00\xfc\x8b\x80\x00\x00\x41\x00\x40\x00\x1a\x0b",  # memory.fill, in three bytes
        b"\x00\x00\xfc\x91\x00\x00\x41\x00\x40\x00\x1a\x0b",  # table.fill, in two
        b"\x00\x00\xfc\x80\x00\x41\x00\x40\x00\x1a\x1a\x0b",  # a saturating conversion, in two
        b"\x00\x00\xfd\x8c\x80\x00" + b"\x40\x00" * 8 + b"\x41\x00\x40\x00\x1a\x1a\x0b",
        b"\x01\x80\x80\x00\x7f\x41\x00\x40\x00\x1a\x0b",
    ],
)
def test_numbers_that_are_longer_than_need_be(body: bytes) -> None:
    assert calls_of_the_growing(made(of_body(body))) == 1


@pytest.mark.parametrize(
    "end", [b"\xfe\x00", b"\x06\x40", b"\xfb\x00", b"\xfc\x12", b"\xfd\x94\x02", b"\xff", b"\x0e\xff\xff\xff\x0f"]
)
def test_what_is_not_known_is_said(end: bytes) -> None:
    with pytest.raises(UnreadableError):
        made(of_body(b"\x00\x41\x00\x40\x00\x1a" + end), valid=False)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_broken_module_is_refused_or_read_and_never_a_crash(data: st.DataObject) -> None:
    wasm = bytearray(module(GROW))
    for _ in range(data.draw(st.integers(1, 4))):
        wasm[data.draw(st.integers(8, len(wasm) - 1))] = data.draw(st.integers(0, 255))
    try:
        rewrite(bytes(wasm), Declared(bytes(wasm)))
    except UnreadableError:
        pass


# The same behaviour


def run(wasm: bytes, limit: int) -> tuple[list[int], list[int]]:
    """What each growth gave, and the flag behind it."""
    store = wasmtime.Store(ENGINE)
    store.set_limits(memory_size=limit)
    store.set_epoch_deadline(1 << 30)
    exports = wasmtime.Instance(store, wasmtime.Module(ENGINE, wasm), []).exports(store)
    flag = exports.get(REFUSED)
    gave, flags = [], []
    for pages in (0, 1, 3, 100, 0, 1, -1, 2):
        grow = exports["grow"]
        assert isinstance(grow, wasmtime.Func)
        gave.append(grow(store, pages))
        flags.append(flag.value(store) if isinstance(flag, wasmtime.Global) else 0)
    return gave, flags


@pytest.mark.parametrize("maximum", ["", "6"])
def test_memory_grows_as_before_and_a_refusal_is_noted_until_it_is_cleared(maximum: str) -> None:
    wasm = bytes(
        wasmtime.wat2wasm(
            f'(module (memory 1 {maximum}) (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))'
        )
    )
    gave, _ = run(wasm, 8 << 16)
    again, flags = run(made(wasm).wasm, 8 << 16)
    assert gave == again
    first = gave.index(-1)
    assert flags == [int(n >= first) for n in range(len(gave))]


def test_an_entry_clears_what_was_noted_and_gives_what_the_function_gives() -> None:
    found = made(module("(drop (memory.grow (i32.const 70000)))"))
    store = wasmtime.Store(ENGINE)
    store.set_epoch_deadline(1 << 30)
    imported = wasmtime.Func(store, wasmtime.FuncType([wasmtime.ValType.i64()], []), lambda number: None)
    exports = wasmtime.Instance(store, wasmtime.Module(ENGINE, found.wasm), [imported]).exports(store)
    flag, go, wide = exports[REFUSED], exports["go"], exports[f"{ENTER}wide"]
    assert isinstance(flag, wasmtime.Global)
    assert isinstance(go, wasmtime.Func)
    assert isinstance(wide, wasmtime.Func)
    with pytest.raises(wasmtime.Trap):
        go(store)
    assert flag.value(store) == 1
    assert wide(store, 7, 8) == [8, 7]
    assert flag.value(store) == 0
    assert f"{ENTER}vector" not in exports
    assert {name for name in exports if name.startswith("insula:")} == {
        REFUSED,
        *(f"{ENTER}{n}" for n in ("go", "size", "wide")),
    }


@pytest.mark.parametrize("guest", ["torture.c", "gotorture"])
def test_real_guests(guest: str) -> None:
    wasm = (build_c if guest.endswith(".c") else build_go)(guest).read_bytes()
    made(wasm)


# Places


@pytest.mark.parametrize("functions", [0, 200, 20_000])
@pytest.mark.parametrize("grows", [1, 5, 200])
def test_offsets_are_those_of_the_original(functions: int, grows: int) -> None:
    body = f"{GROW * grows} (if (i32.eqz (memory.size)) (then {GROW})) (drop (i32.load (i32.const -4)))"
    wasm = module(body, functions=functions)
    found = made(wasm)
    offsets = []
    for each in (wasm, found.wasm):
        store = wasmtime.Store(ENGINE)
        store.set_epoch_deadline(1 << 30)
        imported = wasmtime.Func(store, wasmtime.FuncType([wasmtime.ValType.i64()], []), lambda number: None)
        go = wasmtime.Instance(store, wasmtime.Module(ENGINE, each), [imported]).exports(store)["go"]
        assert isinstance(go, wasmtime.Func)
        with pytest.raises(wasmtime.Trap) as caught:
            go(store)
        offsets += [frame.module_offset for frame in caught.value.frames]
    original, rewritten = offsets
    assert Places(*found[1:4]).place(rewritten) == original


def test_places_are_bounded() -> None:
    found = made(module(GROW * (MAX_PLACES + 1), functions=200))
    assert len(found.rewritten) == 1
    assert Places(*found[1:4]).place(len(found.wasm) - 1) is None


# In the engine


@pytest.mark.parametrize("name", [REFUSED, f"{ENTER}go", "insula:"])
async def test_names_of_ours_are_refused_to_modules(engine: Engine, name: str) -> None:
    for body in ("", GROW):
        path = wat(f'(module (memory (export "memory") 1) (func (export "{name}") {body}))')
        with pytest.raises(PackageError, match="begins with 'insula:'"):
            await engine.load(path, digest(path))


async def test_an_abi_sees_nothing_of_it(engine: Engine) -> None:
    path = await asyncio.to_thread(build_c, "torture.c")
    loaded = await engine.load(path, digest(path))
    assert not [name for name in loaded.exports if name.startswith("insula:")]
    assert "handle_request" in loaded.exports


async def test_a_module_without_exports_or_globals_is_taken(engine: Engine, tmp_path: Path) -> None:
    path = save(of_body(b"\x00\x41\x00\x40\x00\x1a\x0b"))
    assert (await engine.load(path, digest(path))).exports == {}
