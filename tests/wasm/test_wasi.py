"""WASI preview 1, byte by byte."""

from __future__ import annotations

import re
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.wasm import wasi
from insula.wasm.contract import WasiOptions
from insula.wasm.faults import OutOfBoundsError
from insula.wasm.wasi import BADF, FAULT, FUNCTIONS, INVAL, NOTSUP, SPIPE, SUCCESS, Nap, Wasi

SIZE = 128 << 10


class Bytes:
    """A memory of plain bytes, for WASI to stand on: `slept` and `ended` are what it asked for."""

    def __init__(self) -> None:
        self.data = bytearray(b"\xee" * SIZE)
        self.slept: list[float] = []
        self.ended = ""

    def peek(self, pointer: int, size: int) -> bytes:
        self._check(pointer, size)
        return bytes(self.data[pointer : pointer + size])

    def write(self, pointer: int, data: bytes) -> None:
        self._check(pointer, len(data))
        self.data[pointer : pointer + len(data)] = data

    def exit(self, what: str) -> None:
        self.ended = what

    def u32(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 4], "little")

    def _check(self, pointer: int, size: int) -> None:
        if pointer + size > SIZE:
            raise OutOfBoundsError(pointer, size, SIZE)


@pytest.fixture
def memory() -> Bytes:
    return Bytes()


@pytest.fixture
def lines() -> list[tuple[int, bytes]]:
    return []


@pytest.fixture
def guest(memory: Bytes, lines: list[tuple[int, bytes]]) -> Wasi:
    return Wasi(
        memory, WasiOptions(("a", "bc"), (("K", "v"), ("LONG", "é")), lambda fd, line: lines.append((fd, line)))
    )


def test_every_function_of_preview_1_is_here() -> None:
    assert len(FUNCTIONS) == 46
    assert str(FUNCTIONS["path_open"]) == "(i32, i32, i32, i32, i32, i64, i64, i32, i32) -> i32"
    assert str(FUNCTIONS["fd_seek"]) == "(i32, i64, i32, i32) -> i32"
    assert str(FUNCTIONS["proc_exit"]) == "(i32) -> ()"
    assert str(FUNCTIONS["sched_yield"]) == "() -> i32"


@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(st.integers(0, 2**64 - 1), min_size=9, max_size=9))
def test_no_arguments_do_harm(name: str, numbers: list[int]) -> None:
    kinds = FUNCTIONS[name].params
    args = tuple(n & (0xFFFFFFFF if kind == "i32" else 2**64 - 1) for n, kind in zip(numbers, kinds, strict=False))
    answer = Wasi(Bytes(), WasiOptions()).call(name, args)
    while isinstance(answer, Nap):
        answer = answer.wake()
    assert 0 <= answer < 77


@pytest.mark.parametrize(("name", "count", "data"), [("args", 2, b"a\0bc\0"), ("environ", 2, "K=v\0LONG=é\0".encode())])
def test_strings(guest: Wasi, memory: Bytes, name: str, count: int, data: bytes) -> None:
    assert guest.call(f"{name}_sizes_get", (0, 4)) == SUCCESS
    assert (memory.u32(0), memory.u32(4)) == (count, len(data))
    assert guest.call(f"{name}_get", (16, 64)) == SUCCESS
    assert memory.peek(64, len(data) + 1) == data + b"\xee"
    assert (memory.u32(16), memory.u32(20)) == (64, 64 + data.index(b"\0") + 1)
    assert memory.peek(24, 1) == b"\xee"
    assert guest.call(f"{name}_get", (16, SIZE - 1)) == FAULT
    assert guest.call(f"{name}_sizes_get", (0, 2**32 - 1)) == FAULT


def test_clocks(guest: Wasi, memory: Bytes) -> None:
    for clock, now in ((0, time.time_ns), (1, time.monotonic_ns)):
        before = now()
        assert guest.call("clock_time_get", (clock, 0, 8)) == SUCCESS
        assert before <= int.from_bytes(memory.peek(8, 8), "little") <= now()
        assert guest.call("clock_res_get", (clock, 8)) == SUCCESS
        assert memory.peek(8, 9) == struct.pack("<Q", 1000) + b"\xee"
    assert guest.call("clock_time_get", (2, 0, 8)) == INVAL
    assert guest.call("clock_time_get", (0, 0, SIZE - 7)) == FAULT


def test_random(guest: Wasi, memory: Bytes) -> None:
    assert guest.call("random_get", (8, 32)) == SUCCESS
    assert memory.peek(0, 8) == b"\xee" * 8
    assert memory.peek(40, 1) == b"\xee"
    assert memory.peek(8, 32) != b"\xee" * 32
    assert guest.call("random_get", (SIZE - 4, 5)) == FAULT
    assert guest.call("random_get", (0, 2**32 - 1)) == FAULT


def test_much_that_is_random_is_filled_in_slices(guest: Wasi, memory: Bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasi, "RANDOM_SLICE", 1000)
    before = len(set(memory.peek(64, 3500)))
    answer, slices = guest.call("random_get", (64, 3500)), 1
    while isinstance(answer, Nap):
        assert answer.seconds == 0
        answer, slices = answer.wake(), slices + 1
    assert (answer, slices, before) == (SUCCESS, 4, 1)
    for at in (64, 1064, 2064, 3064, 3464):
        assert memory.peek(at, 100) != b"\xee" * 100
    assert memory.peek(0, 64) + memory.peek(3564, 64) == b"\xee" * 128
    assert guest.call("random_get", (SIZE - 3000, 3001)) == FAULT
    assert memory.peek(SIZE - 3000, 3000) == b"\xee" * 3000, "nothing is written where not all of it is there"


def test_one_write_takes_a_bounded_number_of_lines(guest: Wasi, memory: Bytes, lines: list[tuple[int, bytes]]) -> None:
    buffers(memory, 16, b"x\n" * 50, b"\n" * 100)
    assert guest.call("fd_write", (1, 16, 2, 8)) == SUCCESS
    assert memory.u32(8) == 114
    assert lines == [(1, b"x")] * 50 + [(1, b"")] * 14
    memory.write(16, struct.pack("<II", 4196, wasi.MAX_LINES))
    assert guest.call("fd_write", (1, 16, 1, 8)) == SUCCESS
    assert memory.u32(8) == wasi.MAX_LINES


def buffers(memory: Bytes, at: int, *parts: bytes) -> None:
    """Puts `parts` into the memory from 4096 on, and the list of where they are at `at`."""
    place = 4096
    for n, part in enumerate(parts):
        memory.write(place, part)
        memory.write(at + 8 * n, struct.pack("<II", place, len(part)))
        place += len(part)


def test_output_leaves_line_by_line(guest: Wasi, memory: Bytes, lines: list[tuple[int, bytes]]) -> None:
    buffers(memory, 16, b"one\nt", b"", b"wo\n\nthr")
    assert guest.call("fd_write", (1, 16, 3, 8)) == SUCCESS
    assert memory.u32(8) == 12
    assert lines == [(1, b"one"), (1, b"two"), (1, b"")]
    buffers(memory, 16, b"ee\nend")
    guest.call("fd_write", (1, 16, 1, 8))
    guest.call("fd_write", (2, 16, 1, 8))
    assert lines[3:] == [(1, b"three"), (2, b"ee")]
    guest.flush()
    guest.flush()
    assert lines[5:] == [(1, b"end"), (2, b"end")]


def test_output_is_bounded(guest: Wasi, memory: Bytes, lines: list[tuple[int, bytes]]) -> None:
    memory.write(16, struct.pack("<II", 1024, 100 << 10))
    assert guest.call("fd_write", (1, 16, 1, 8)) == SUCCESS
    assert memory.u32(8) == wasi.MAX_WRITE
    guest.flush()
    assert [len(line) for _, line in lines] == [wasi.MAX_LINE] * (wasi.MAX_WRITE // wasi.MAX_LINE)
    assert guest.call("fd_write", (1, 16, wasi.MAX_BUFFERS + 1, 8)) == INVAL
    memory.write(16, struct.pack("<II", SIZE - 1, 2))
    assert guest.call("fd_write", (1, 16, 1, 8)) == FAULT
    assert guest.call("fd_write", (1, SIZE - 4, 1, 8)) == FAULT


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"x", b"\n")), max_size=20))
def test_however_it_is_cut_the_output_is_the_same(parts: list[bytes]) -> None:
    memory, seen = Bytes(), list[bytes]()
    guest = Wasi(memory, WasiOptions(write=lambda fd, line: seen.append(line)))
    for part in parts:
        buffers(memory, 16, part)
        assert guest.call("fd_write", (1, 16, 1, 8)) == SUCCESS
    guest.flush()
    whole = b"".join(parts)
    assert seen == (whole.split(b"\n")[:-1] if whole.endswith(b"\n") or not whole else whole.split(b"\n"))


def test_stdin_is_at_its_end(guest: Wasi, memory: Bytes) -> None:
    buffers(memory, 16, b"12345678")
    assert guest.call("fd_read", (0, 16, 1, 8)) == SUCCESS
    assert memory.u32(8) == 0
    assert guest.call("fd_read", (1, 16, 1, 8)) == BADF


def test_what_streams_are(guest: Wasi, memory: Bytes) -> None:
    assert guest.call("fd_fdstat_get", (1, 0)) == SUCCESS
    assert memory.peek(0, 25) == bytes([2, 0, 0, 0, 0, 0, 0, 0]) + struct.pack("<QQ", 0x8000040, 0) + b"\xee"
    assert guest.call("fd_filestat_get", (0, 0)) == SUCCESS
    assert memory.peek(0, 65) == bytes(16) + b"\x02" + bytes(7) + b"\x01" + bytes(39) + b"\xee"
    assert guest.call("fd_seek", (1, 0, 0, 0)) == SPIPE
    assert guest.call("fd_fdstat_get", (3, 0)) == BADF


def test_a_closed_stream_is_closed(guest: Wasi, memory: Bytes) -> None:
    buffers(memory, 16, b"x\n")
    assert guest.call("fd_close", (1,)) == SUCCESS
    assert guest.call("fd_close", (1,)) == BADF
    assert guest.call("fd_write", (1, 16, 1, 8)) == BADF
    assert guest.call("fd_seek", (1, 0, 0, 0)) == BADF


@pytest.mark.parametrize("name", sorted(n for n in FUNCTIONS if re.match(r"path_|sock_|fd_prestat|fd_readdir", n)))
def test_there_are_no_files_and_no_sockets(guest: Wasi, memory: Bytes, name: str) -> None:
    before = bytes(memory.data)
    for fd in (0, 3, 4):
        expected = NOTSUP if name.startswith("sock_") else BADF
        assert guest.call(name, (fd,) + (64,) * (len(FUNCTIONS[name].params) - 1)) == expected
    assert memory.data == before


def clock(userdata: int, nanoseconds: int, *, absolute: bool = False, identifier: int = 1) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", userdata, 0, identifier, nanoseconds, 0, int(absolute))


def stream(userdata: int, tag: int, fd: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, tag, fd)


def poll(guest: Wasi, memory: Bytes, *subscriptions: bytes) -> list[tuple[int, int, int, int, int]]:
    memory.write(1024, b"".join(subscriptions))
    answer = guest.call("poll_oneoff", (1024, 8192, len(subscriptions), 8))
    if isinstance(answer, Nap):
        memory.slept.append(answer.seconds)
        answer = answer.wake()
    assert answer == SUCCESS
    return list(struct.iter_unpack("<QHB5xQH6x", memory.peek(8192, 32 * memory.u32(8))))


def test_sleeping(guest: Wasi, memory: Bytes) -> None:
    assert poll(guest, memory, clock(7, 30_000_000)) == [(7, 0, 0, 0, 0)]
    assert 0.02 < memory.slept[0] <= 0.03
    assert poll(guest, memory, clock(1, 9_000_000_000), clock(2, 30_000_000)) == [(2, 0, 0, 0, 0)]
    assert 0.02 < memory.slept[1] <= 0.03
    for identifier, now in ((0, time.time_ns), (1, time.monotonic_ns)):
        end = clock(3, now() + 50_000_000, absolute=True, identifier=identifier)
        assert poll(guest, memory, end) == [(3, 0, 0, 0, 0)]
        assert 0.0 < memory.slept[-1] <= 0.05
    slept = len(memory.slept)
    assert poll(guest, memory, clock(4, 5, absolute=True)) == [(4, 0, 0, 0, 0)]
    assert len(memory.slept) == slept


def test_what_is_ready_is_answered_without_sleep(guest: Wasi, memory: Bytes) -> None:
    events = poll(guest, memory, clock(1, 10**9), stream(2, 1, 0), stream(3, 2, 1), stream(4, 1, 5), stream(5, 9, 0))
    assert events == [(2, 0, 1, 0, 1), (3, 0, 2, wasi.MAX_WRITE, 0), (4, BADF, 1, 0, 0), (5, INVAL, 9, 0, 0)]
    assert not memory.slept


def test_polls_are_bounded(guest: Wasi) -> None:
    assert guest.call("poll_oneoff", (0, 8192, 0, 8)) == INVAL
    assert guest.call("poll_oneoff", (0, 8192, wasi.MAX_SUBSCRIPTIONS + 1, 8)) == INVAL
    assert guest.call("poll_oneoff", (SIZE - 8, 8192, 1, 8)) == FAULT
    assert guest.call("poll_oneoff", (0, SIZE - 8, 1, 8)) == FAULT


def test_ends(guest: Wasi, memory: Bytes) -> None:
    guest.call("proc_exit", (3,))
    assert memory.ended == "the guest ended itself with exit code 3"
    guest.call("proc_raise", (6,))
    assert memory.ended == "the guest ended itself by signal 6"
