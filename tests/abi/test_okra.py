"""The okra ABI over real guests, and over a guest that is only a record of what was asked."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.abi.okra import FIRST_BUFFER, MAX_ERROR_TEXT, MAX_HOST_REQUEST, OkraAbi
from insula.errors import Code, GuestError, InsulaError, LimitError, PackageError
from insula.wasm.contract import Engine, Guest, GuestLimits, RefusalError, Signature, WasiOptions
from insula.wasm.engine import NativeEngine
from tests.guests import digest, wat
from tests.wasm.rig import Rig

ABI = OkraAbi()

EXPORTS: Mapping[str, Signature] = {
    "allocate": Signature(("i32",), ("i32",)),
    "deallocate": Signature(("i32",), ()),
    "handle_request": Signature(("i32",) * 4, ("i64",)),
}
ONE_CALL: Mapping[str, Signature] = {
    "insula_input": Signature(("i32",), ("i32",)),
    "insula_call": Signature(("i32", "i32"), ("i64",)),
}


class Record:
    """A guest of plain bytes: `allocate` gives what `gives` has, everything that is called is noted in `calls`."""

    def __init__(self, gives: list[int], *, full: bool = False) -> None:
        self.room_at = 0
        self.room = -1
        self.memory = bytearray(1 << 18)
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.first: list[int] = []
        self._gives = gives
        self._full = full
        self.retired = False

    def has(self, export: str) -> bool:
        return True

    def call(self, export: str, *args: int) -> int:
        self.calls.append((export, args))
        return 0 if export == "deallocate" else self._gives.pop(0)

    def read(self, pointer: int, size: int, limit: int | None = None) -> bytes:
        if pointer + size > len(self.memory):
            raise GuestError("outside")
        if limit is not None and size > limit:
            raise LimitError("too large")
        return bytes(self.memory[pointer : pointer + size])

    def write(self, pointer: int, data: bytes) -> None:
        self.memory[pointer : pointer + len(data)] = data

    def first_call(self, export: str, *args: int) -> int:
        self.first.append(len(self.calls))
        return self.call(export, *args)

    def put_in(self, export: str, data: bytes, first: bool = False) -> int:
        pointer = (self.first_call if first else self.call)(export, len(data) or 1)
        if pointer:
            self.write(pointer, data)
        return pointer

    def drop(self, export: str, *pointers: int) -> None:
        for pointer in pointers:
            self.call(export, pointer)

    def shortage(self, what: str) -> InsulaError | None:
        return LimitError(what) if self._full else None

    def retire(self) -> None:
        self.retired = True


def six(guest: Record, payload: bytes, result: int) -> bytes:
    exchange = ABI.exchange(EXPORTS, "add", 0)
    return exchange.finish(guest, exchange.begin(guest, payload), result)


# What a module must export


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_a_missing_export_is_named(name: str) -> None:
    with pytest.raises(PackageError, match=rf"exports no function {name}; it should be \(i32"):
        ABI.check({k: v for k, v in EXPORTS.items() if k != name}, True)


@pytest.mark.parametrize("name", [*sorted(EXPORTS), *sorted(ONE_CALL), "_initialize"])
def test_a_wrong_type_is_named_with_the_right_one(name: str) -> None:
    wrong = {**EXPORTS, **ONE_CALL, name: Signature(("f64",), ("i32", "i32"))}
    with pytest.raises(PackageError, match=rf"exports {name} as \(f64\) -> \(i32, i32\); it should be \("):
        ABI.check(wrong, True)


def test_memory_is_needed_and_a_program_is_told_what_it_is() -> None:
    ABI.check(EXPORTS, True)
    ABI.check({**EXPORTS, **ONE_CALL, "_initialize": Signature(), "other": Signature(("f32",))}, True)
    with pytest.raises(PackageError, match="exports no memory"):
        ABI.check(EXPORTS, False)
    with pytest.raises(PackageError) as caught:
        ABI.check({"_start": Signature()}, True)
    assert "build a reactor" in (caught.value.hint or "")


def test_the_one_call_entry_needs_both_its_exports() -> None:
    assert ABI.exchange(EXPORTS, "add", 3).export == "handle_request"
    assert ABI.exchange({**EXPORTS, "insula_call": ONE_CALL["insula_call"]}, "add", 3).export == "handle_request"
    exchange = ABI.exchange({**EXPORTS, **ONE_CALL}, "add", 3)
    assert (exchange.export, exchange.begin(Record([7]), b"{}")) == ("insula_call", (3, 2))


def test_a_buffer_of_the_one_call_is_asked_for_where_none_holds_the_input() -> None:
    guest, exchange = Record([100, 200]), ABI.exchange({**EXPORTS, **ONE_CALL}, "add", 3)
    for size in (0, FIRST_BUFFER, FIRST_BUFFER + 1, FIRST_BUFFER + 1, 1):
        assert exchange.begin(guest, b"x" * size) == (3, size)
    assert guest.calls == [("insula_input", (FIRST_BUFFER,)), ("insula_input", (FIRST_BUFFER + 1,))]
    assert (guest.room_at, guest.room) == (200, FIRST_BUFFER + 1)


# The six calls


def test_six_calls_in_order() -> None:
    guest = Record([100, 200])
    guest.write(300, b"[42]")
    assert six(guest, b"{}", 300 << 32 | 4) == b"[42]"
    assert guest.calls == [
        ("allocate", (3,)),
        ("allocate", (2,)),
        ("deallocate", (100,)),
        ("deallocate", (200,)),
        ("deallocate", (300,)),
    ]
    assert guest.memory[100:103] == b"add"
    assert guest.memory[200:202] == b"{}"


def test_no_pointer_is_freed_twice_and_null_never() -> None:
    guest = Record([100, 200])
    assert six(guest, b"{}", 200 << 32 | 2) == b"{}"
    assert [args for export, args in guest.calls if export == "deallocate"] == [(100,), (200,)]
    guest = Record([100, 200])
    assert six(guest, b"{}", 100 << 32 | 3) == b"add"
    assert [args for export, args in guest.calls if export == "deallocate"] == [(100,), (200,)]
    guest = Record([100, 100])
    with pytest.raises(RefusalError, match="without a message") as caught:
        six(guest, b"{}", 0)
    assert caught.value.code is Code.UNKNOWN
    assert [args for export, args in guest.calls if export == "deallocate"] == [(100,)]


def test_nothing_is_never_asked_for() -> None:
    guest = Record([100, 200])
    six(guest, b"", 100 << 32)
    assert [args for export, args in guest.calls if export == "allocate"] == [(3,), (1,)]


@pytest.mark.parametrize(("full", "error"), [(True, LimitError), (False, GuestError)])
def test_no_memory(full: bool, error: type[InsulaError]) -> None:
    with pytest.raises(error, match="no memory for 3 bytes"):
        six(Record([0], full=full), b"{}", 0)


def test_what_went_before_an_exchange_has_no_part_in_its_want_of_memory() -> None:
    guest = Record([100, 200])
    six(guest, b"{}", 300 << 32 | 2)
    assert guest.first == [0]
    guest = Record([100, 200])
    for size in (5, 6, 1 << 17):
        ABI.exchange({**EXPORTS, **ONE_CALL}, "add", 0).begin(guest, b"x" * size)
    assert guest.first == [0, 1]


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ('{"error":"gone","code":"not_found"}', Code.NOT_FOUND, "gone"),
        ('{"error":"gone"}', Code.UNKNOWN, "gone"),
        ('{"error":"gone","code":null,"more":[1]}', Code.UNKNOWN, "gone"),
        ('{"error":"gone","code":"NOT_FOUND"}', Code.UNKNOWN, "gone"),
        (json.dumps({"error": "x" * 10_000}), Code.UNKNOWN, "x" * MAX_ERROR_TEXT),
    ],
)
def test_a_refusal_has_its_code_and_message(body: str, code: Code, message: str) -> None:
    guest = Record([100, 200])
    guest.write(300, body.encode())
    with pytest.raises(RefusalError) as caught:
        six(guest, b"{}", 1 << 63 | 300 << 32 | len(body))
    assert (caught.value.code, caught.value.message) == (code, message)
    assert guest.calls[-1] == ("deallocate", (300,))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"error":1}', b"\xff", b'{"error":"\xff"}', b"[" * 60000])
def test_a_refusal_in_the_wrong_shape_is_the_guests_fault(body: bytes) -> None:
    guest = Record([100, 200])
    guest.write(300, body)
    with pytest.raises(GuestError, match="not JSON of the form"):
        six(guest, b"{}", 1 << 63 | 300 << 32 | len(body))


@given(st.integers(0, 2**64 - 1))
def test_any_result_is_an_output_or_an_error(result: int) -> None:
    try:
        output = six(Record([100, 200]), b"{}", result)
    except InsulaError:
        return
    assert len(output) == result & 0xFFFFFFFF


# The one call


async def test_one_call(engine: Engine) -> None:
    rig = await Rig.on(engine, "onecall.c")
    instance = await rig.instance()

    async def call(number: int, payload: bytes = b"{}") -> bytes:
        exchange = ABI.exchange(rig.module.exports, "m", number)
        answer = rig.program.runner(exchange)(instance, payload, None, time.monotonic() + 10)
        return answer if isinstance(answer, bytes) else await answer

    assert await call(0, b'{"a":1}') == b'{"a":1}'
    assert await call(0, b"") == b""
    assert await call(0, b"1" * FIRST_BUFFER) == b"1" * FIRST_BUFFER
    assert await call(2) == b"1"
    assert await call(0, b"1" * (FIRST_BUFFER + 1)) == b"1" * (FIRST_BUFFER + 1)
    assert await call(2) == b"2"
    with pytest.raises(RefusalError, match="not today") as caught:
        await call(1)
    assert caught.value.code is Code.UNAVAILABLE
    with pytest.raises(RefusalError, match="without a message"):
        await call(3)
    assert instance.alive
    with pytest.raises(GuestError, match="no memory for 41943041 bytes"):
        await call(0, b"1" * ((40 << 20) + 1))
    assert not instance.alive
    instance.close()
    other = await rig.instance()
    instance = other
    assert await call(2) == b"1"
    other.close()


# Host calls

#: Method `next` calls `next`, any other `run_host_api`, with the input; `large` with a length over the limit. The output is
#: the host's answer, pointer and length as the host gave them.
HOST_GUEST = """(module
  (import "okra" "run_host_api" (func $api (param i32 i32) (result i32 i32)))
  (import "okra" "next" (func $next (param i32 i32) (result i32 i32)))
  (memory (export "memory") 300)
  (global $top (mut i32) (i32.const 65536))
  (func (export "allocate") (param $size i32) (result i32)
    (global.set $top (i32.add (global.get $top) (local.get $size)))
    (i32.sub (global.get $top) (local.get $size)))
  (func (export "deallocate") (param i32))
  (func (export "handle_request") (param $method i32) (param $letters i32) (param $in i32) (param $size i32) (result i64)
    (local $length i32)
    (if (i32.eq (local.get $letters) (i32.const 5)) (then (local.set $size (i32.const 10485761))))
    (if (result i32 i32) (i32.eq (local.get $letters) (i32.const 4))
      (then (call $next (local.get $in) (local.get $size)))
      (else (call $api (local.get $in) (local.get $size))))
    (local.set $length)
    i64.extend_i32_u
    (i64.shl (i64.const 32))
    (i64.or (i64.extend_i32_u (local.get $length)))))"""


async def host_calls(engine: Engine, method: str, payload: bytes = b"{}") -> tuple[bytes, list[bytes]]:
    """What the guest answers, and the requests that reached the host."""
    path = wat(HOST_GUEST)
    module = await engine.load(path, digest(path))
    seen: list[bytes] = []

    def api(scope: object, request: bytes) -> bytes:
        seen.append(request)
        return b"api:" + request[:20]

    offered = ABI.imports({"run_host_api": api, "next": lambda scope, request: b"next:" + request, "other": api})
    assert [entry.name for entry in offered] == ["run_host_api", "next"]
    program = engine.link(module, offered, GuestLimits(), WasiOptions())
    instance = await program.instantiate()
    exchange = ABI.exchange(module.exports, method, 0)
    answer = program.runner(exchange)(instance, payload, None, time.monotonic() + 10)
    return (answer if isinstance(answer, bytes) else await answer), seen


async def test_host_calls_answer_in_the_guests_memory(engine: Engine) -> None:
    large = b"1" * (5 << 20)
    assert await host_calls(engine, "run") == (b"api:{}", [b"{}"])
    assert await host_calls(engine, "next") == (b"next:{}", [])
    assert await host_calls(engine, "run", large) == (b"api:" + b"1" * 20, [large])


async def test_a_request_over_the_limit_gets_nothing(engine: Engine) -> None:
    assert MAX_HOST_REQUEST == 10485760
    with pytest.raises(RefusalError, match="without a message"):
        await host_calls(engine, "large")


#: A guest with the one call whose result is what its input says, as eight bytes; its buffer ends 64 bytes before its memory
#: does, whatever was asked for.
SAYS = """(module (memory (export "memory") 2)
  (func (export "allocate") (param i32) (result i32) (i32.const 8))
  (func (export "deallocate") (param i32))
  (func (export "handle_request") (param i32 i32 i32 i32) (result i64) (i64.const 0))
  (func (export "insula_input") (param i32) (result i32) (i32.const 131008))
  (func (export "insula_call") (param i32 i32) (result i64) (i64.load (i32.const 131008))))"""


@pytest.mark.parametrize("known", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize(
    ("pointer", "length", "says"),
    [
        (131008, 8, None),
        (131071, 1, None),
        (131072, 0, None),
        (131071, 2, GuestError),
        (0xFFFFFFFF, 1, GuestError),
        (0x7FFFFFFF, 0x7FFFFFFF, GuestError),
        (0, 0xFFFFFFFF, GuestError),
        (0, 131073, GuestError),
        (0, 2001, LimitError),
        (0, 0, RefusalError),
    ],
)
async def test_a_result_of_the_one_call_is_checked_each_time(
    engine: Engine, known: bool, pointer: int, length: int, says: type[InsulaError] | None
) -> None:
    path = wat(SAYS)
    module = await engine.load(path, digest(path))
    program = engine.link(module, [], GuestLimits(output_bytes=2000 if length == 2001 else 1 << 20), WasiOptions())
    run = program.runner(ABI.exchange(module.exports, "m", 0))
    instance = await program.instantiate()

    async def call(payload: bytes) -> bytes:
        answer = run(instance, payload, None, time.monotonic() + 10)
        return answer if isinstance(answer, bytes) else await answer

    if known:
        assert await call(struct.pack("<II", 2, 0)) == b"\0\0"
    payload = struct.pack("<II", length, pointer)
    if says is None:
        assert len(await call(payload)) == length
    else:
        with pytest.raises(says):
            await call(payload)
    assert instance.alive == (says in (None, RefusalError))
    instance.close()


async def test_the_buffer_is_asked_for_once_where_it_holds_the_input(cache: Path) -> None:
    """The engine goes the short way from the second call on: the exchange is not asked."""
    engine = await NativeEngine.open(cache)
    path = wat(SAYS)
    program = engine.link(await engine.load(path, digest(path)), [], GuestLimits(), WasiOptions())
    exchange = ABI.exchange({**EXPORTS, **ONE_CALL}, "m", 0)
    begun: list[bytes] = []

    class Told:
        export, number, pace, finish = exchange.export, exchange.number, exchange.pace, exchange.finish

        def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
            begun.append(payload)
            return exchange.begin(guest, payload)

    instance = await program.instantiate()
    payload = struct.pack("<II", 2, 0)
    for _ in range(3):
        answer = program.runner(Told())(instance, payload, None, time.monotonic() + 10)
        assert (answer if isinstance(answer, bytes) else await answer) == b"\0\0"
    assert begun == [payload]
    await engine.close()


async def test_a_buffer_in_memory_that_has_just_grown(engine: Engine) -> None:
    """The first input ends before the old end of the memory, the second one behind it."""
    path = wat(
        SAYS.replace(
            "(result i32) (i32.const 131008))", "(result i32) (drop (memory.grow (i32.const 1))) (i32.const 131008))"
        )
    )
    module = await engine.load(path, digest(path))
    program = engine.link(module, [], GuestLimits(), WasiOptions())
    run = program.runner(ABI.exchange(module.exports, "m", 0))
    instance = await program.instantiate()
    for size in (8, 100, FIRST_BUFFER):
        answer = run(instance, struct.pack("<II", size, 131008) + b"x" * (size - 8), None, time.monotonic() + 10)
        answer = answer if isinstance(answer, bytes) else await answer
        assert answer[8:] == b"x" * (size - 8)
    instance.close()


async def test_a_buffer_that_is_smaller_than_was_asked_for(engine: Engine) -> None:
    path = wat(SAYS)
    module = await engine.load(path, digest(path))
    program = engine.link(module, [], GuestLimits(), WasiOptions())
    run = program.runner(ABI.exchange(module.exports, "m", 0))
    instance = await program.instantiate()
    for size, fits in ((8, True), (64, True), (65, False)):
        answer = None
        try:
            answer = run(instance, struct.pack("<II", 1, 0) + bytes(size - 8), None, time.monotonic() + 10)
            answer = answer if isinstance(answer, bytes) else await answer
        except GuestError:
            pass
        assert (answer == b"\0") == fits
        assert instance.alive == fits
    instance.close()
