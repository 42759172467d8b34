"""Host functions of every shape that guests of apps import: texts and numbers in; packed, a number or nothing out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from insula.abi.shapes import host_import
from insula.errors import GuestError, InsulaError, LimitError
from insula.wasm.contract import Engine, GuestLimits, WasiOptions
from tests.guests import digest, wat
from tests.wasm.test_contract import Scope, Steps

#: Texts: `key` at 0, `{"a":1}` at 8, bytes that are no UTF-8 at 32.
GUEST = """(module
  (import "rune" "get_state" (func $get_state (param i32 i32) (result i64)))
  (import "rune" "set_state" (func $set_state (param i32 i32 i32 i32)))
  (import "rune" "delete_state" (func $delete_state (param i32 i32) (result i32)))
  (import "rune" "clear_state" (func $clear_state))
  (import "rune" "remove_data" (func $remove_data (param i32 i32 i32 i32 i32)))
  (import "rune" "db_execute" (func $db_execute (param i32 i32 i32 i32) (result i64)))
  (import "rune" "cache_keys" (func $cache_keys (result i64)))
  (import "rune" "set_timer" (func $set_timer (param i32 i32 i32 i32)))
  (import "rune" "far" (func $far (param i64) (result i64)))
  (memory (export "memory") 2)
  (data (i32.const 0) "key") (data (i32.const 8) "{\\"a\\":1}") (data (i32.const 32) "\\ff\\fe")
  (global $next (mut i32) (i32.const 1024))
  (func (export "alloc") (param $n i32) (result i32)
    (if (i32.eq (local.get $n) (i32.const 13)) (then (return (i32.const 0))))
    (global.get $next) (global.set $next (i32.add (global.get $next) (local.get $n))))
  (func (export "get") (result i64) (call $get_state (i32.const 0) (i32.const 3)))
  (func (export "set") (call $set_state (i32.const 0) (i32.const 3) (i32.const 8) (i32.const 7)))
  (func (export "delete") (result i32) (call $delete_state (i32.const 0) (i32.const 3)))
  (func (export "clear") (call $clear_state))
  (func (export "remove") (call $remove_data (i32.const 0) (i32.const 3) (i32.const -1) (i32.const 8) (i32.const 0)))
  (func (export "execute") (result i64) (call $db_execute (i32.const 8) (i32.const 7) (i32.const 0) (i32.const 3)))
  (func (export "keys") (result i64) (call $cache_keys))
  (func (export "timer") (call $set_timer (i32.const 0) (i32.const 3) (i32.const 250) (i32.const 1)))
  (func (export "far") (result i64) (call $far (i64.const -2)))
  (func (export "wrong_text") (call $set_state (i32.const 0) (i32.const 3) (i32.const 32) (i32.const 2)))
  (func (export "outside") (call $set_state (i32.const -8) (i32.const 64) (i32.const 0) (i32.const 0)))
  (func (export "long") (call $set_state (i32.const 0) (i32.const 65537) (i32.const 0) (i32.const 0))))"""

SHAPES = {
    "get_state": ("s", "b"),
    "set_state": ("ss", ""),
    "delete_state": ("s", "i"),
    "clear_state": ("", ""),
    "remove_data": ("sis", ""),
    "db_execute": ("ss", "b"),
    "cache_keys": ("", "b"),
    "set_timer": ("sii", ""),
    "far": ("l", "l"),
}


class Packed(Steps):
    """Reads what a packed result points to; `null` of 0."""

    def finish(self, guest: Any, args: tuple[int, ...], result: int) -> bytes:
        return guest.read(result >> 32, result & 0xFFFFFFFF) if result else b"null"


class Host:
    """A program of the guest whose every import notes its arguments and answers `answer`, now or `later`."""

    def __init__(self, engine: Engine, later: bool) -> None:
        self.engine = engine
        self.later = later
        self.answer: Any = None
        self.seen: list[tuple[Any, ...]] = []
        self.scopes: list[Any] = []

    def _function(self, name: str) -> Callable[..., Any | Awaitable[Any]]:
        def function(scope: Any, *args: Any) -> Any:
            self.scopes.append(scope)
            self.seen.append((name, *args))
            return asyncio.sleep(0, self.answer) if self.later else self.answer

        return function

    async def run(self, steps: Steps, answer: Any = None) -> bytes:
        self.answer = answer
        path = wat(GUEST)
        module = await self.engine.load(path, digest(path))
        imports = [
            host_import("rune", name, *shape, self._function(name), max_text=1 << 16) for name, shape in SHAPES.items()
        ]
        program = self.engine.link(module, imports, GuestLimits(), WasiOptions())
        instance = await program.instantiate()
        scope = Scope()
        try:
            given = program.runner(steps)(instance, b"", scope, time.monotonic() + 10)
            result = given if isinstance(given, bytes) else await given
        finally:
            program.close()
        assert self.scopes == [scope]
        assert scope.host_calls == 1
        return result


@pytest.fixture(params=[False, True], ids=["now", "later"])
def host(engine: Engine, request: pytest.FixtureRequest) -> Host:
    return Host(engine, request.param)


@pytest.mark.parametrize(
    ("export", "seen", "answer", "read"),
    [
        ("get", ("get_state", "key"), b'{"b":2}', b'{"b":2}'),
        ("get", ("get_state", "key"), b"", b""),
        ("get", ("get_state", "key"), None, b"null"),
        ("execute", ("db_execute", '{"a":1}', "key"), b"x" * 30_000, b"x" * 30_000),
        ("keys", ("cache_keys",), b"[]", b"[]"),
    ],
)
async def test_a_packed_pointer_and_null(host: Host, export: str, seen: Any, answer: Any, read: bytes) -> None:
    assert await host.run(Packed(export), answer) == read
    assert host.seen == [seen]


@pytest.mark.parametrize(
    ("export", "seen", "answer", "result"),
    [
        ("set", ("set_state", "key", '{"a":1}'), None, 0),
        ("delete", ("delete_state", "key"), 1, 1),
        ("delete", ("delete_state", "key"), -1, 2**32 - 1),
        ("clear", ("clear_state",), None, 0),
        ("remove", ("remove_data", "key", -1, ""), None, 0),
        ("timer", ("set_timer", "key", 250, 1), None, 0),
        ("far", ("far", -2), -3, 2**64 - 3),
    ],
)
async def test_texts_and_numbers_in_a_number_or_nothing_out(
    host: Host, export: str, seen: Any, answer: Any, result: int
) -> None:
    assert await host.run(Steps(export), answer) == b"%d" % result
    assert host.seen == [seen]


@pytest.mark.parametrize(
    ("export", "error", "match"),
    [
        ("wrong_text", GuestError, "rune.set_state with a text that is not UTF-8"),
        ("outside", GuestError, "memory"),
        ("long", LimitError, "65537"),
    ],
)
async def test_what_is_no_text_ends_the_guest(engine: Engine, export: str, error: type[Exception], match: str) -> None:
    host = Host(engine, later=False)
    with pytest.raises(error, match=match):
        await host.run(Steps(export))
    assert host.seen == []


async def test_an_answer_of_another_type_is_a_mistake_of_the_host(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    for export, answer in (("clear", 7), ("delete", None), ("get", "text")):
        with pytest.raises(InsulaError, match="inside the server"):
            await host.run(Steps(export), answer)
        host.scopes.clear()
        assert "answered" in caplog.text
        caplog.clear()


async def test_a_guest_without_room_for_an_answer(host: Host) -> None:
    with pytest.raises(GuestError, match="no memory for 13 bytes"):
        await host.run(Packed("get"), b"x" * 13)
