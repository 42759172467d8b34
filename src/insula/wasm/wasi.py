"""WASI preview 1 for guests that nobody trusts: every function is here, and none of them reaches the machine.

Policy
- A guest has its arguments, its environment, two clocks, random numbers, stdout and stderr (line by line to
  `WasiOptions.write`), an empty stdin, and sleep. It has no files, no folders and no sockets: what works on those fails
  with the errno of a descriptor that is not open, and the scan for preopened folders finds none.
- A bad pointer is the guest's errno 21 (EFAULT), never a trap of ours. Every count has a bound.
- Nothing here takes long: one write takes a bounded number of bytes and lines (a short write, as on any stream), and
  random bytes are filled in slices with a rest of no time in between.
- Nothing here sleeps: a function that has to gives a `Nap`, and the scheduler sees to it, and to the deadline.
- Nothing here knows an engine: `Host` is all that it stands on, and `FUNCTIONS` is all that an engine needs to know.

Shapes in memory, little-endian
- `ciovec`, `iovec`: pointer u32, length u32.
- `fdstat` (24 bytes): filetype u8 at 0, flags u16 at 2, rights u64 at 8, inheriting rights u64 at 16.
- `filestat` (64 bytes): filetype u8 at 16, links u64 at 24, the rest 0.
- `subscription` (48 bytes): userdata u64 at 0, tag u8 at 8 (0 clock, 1 readable, 2 writable); a clock's id u32 at 16,
  timeout u64 (ns) at 24, flags u16 at 40 (1 = absolute time); the descriptor u32 of the others at 16.
- `event` (32 bytes): userdata u64 at 0, errno u16 at 8, tag u8 at 10, bytes u64 at 16, flags u16 at 24 (1 = end of file).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

from insula.wasm.contract import Signature, WasiOptions
from insula.wasm.faults import OutOfBoundsError

MODULE = "wasi_snapshot_preview1"

SUCCESS, BADF, FAULT, INVAL, NOTSUP, SPIPE = 0, 8, 21, 28, 58, 70

#: Bounds: buffers of one call, subscriptions of one poll, bytes and lines taken of one write, random bytes of one slice,
#: bytes of a line of output (a longer one is cut into several).
MAX_BUFFERS = 1024
MAX_SUBSCRIPTIONS = 1024
MAX_WRITE = 64 << 10
MAX_LINES = 64
RANDOM_SLICE = 256 << 10
MAX_LINE = 8 << 10

_CHARACTER_DEVICE = 2
_RIGHT_READ, _RIGHT_WRITE, _RIGHT_POLL = 1 << 1, 1 << 6, 1 << 27
_REALTIME, _MONOTONIC = 0, 1
_CLOCK, _READABLE, _WRITABLE = 0, 1, 2


class Host(Protocol):
    """What WASI stands on: the memory of one guest, and a way to end the guest."""

    def peek(self, pointer: int, size: int) -> bytes:
        """A copy of guest memory; OutOfBoundsError."""

    def write(self, pointer: int, data: bytes) -> None:
        """Writes guest memory; OutOfBoundsError."""

    def exit(self, what: str) -> None:
        """Ends the guest; `what` is a plain sentence of how it ended."""


class Nap(NamedTuple):
    """A sleep that a function asks for before it can answer: `wake` gives its errno, or the next nap, `seconds` from now.
    One of no seconds lets others have their turn: where the guest cannot sleep, `wake` may follow at once."""

    seconds: float
    wake: Callable[[], int | Nap]


def _signatures() -> dict[str, Signature]:
    """Every function of preview 1: `i` and `I` are i32 and i64 parameters; all but one return an errno."""
    table = """
        args_get ii / args_sizes_get ii / environ_get ii / environ_sizes_get ii
        clock_res_get ii / clock_time_get iIi / random_get ii / sched_yield / poll_oneoff iiii / proc_raise i
        fd_advise iIIi / fd_allocate iII / fd_close i / fd_datasync i / fd_fdstat_get ii / fd_fdstat_set_flags ii
        fd_fdstat_set_rights iII / fd_filestat_get ii / fd_filestat_set_size iI / fd_filestat_set_times iIIi
        fd_pread iiiIi / fd_prestat_get ii / fd_prestat_dir_name iii / fd_pwrite iiiIi / fd_read iiii
        fd_readdir iiiIi / fd_renumber ii / fd_seek iIii / fd_sync i / fd_tell ii / fd_write iiii
        path_create_directory iii / path_filestat_get iiiii / path_filestat_set_times iiiiIIi / path_link iiiiiii
        path_open iiiiiIIii / path_readlink iiiiii / path_remove_directory iii / path_rename iiiiii
        path_symlink iiiii / path_unlink_file iii
        sock_accept iii / sock_recv iiiiii / sock_send iiiii / sock_shutdown ii
    """
    kinds = {"i": "i32", "I": "i64"}
    found = {"proc_exit": Signature(("i32",), ())}
    for entry in table.replace("\n", "/").split("/"):
        if words := entry.split():
            found[words[0]] = Signature(tuple(kinds[c] for c in words[1]) if len(words) > 1 else (), ("i32",))
    return found


#: Function name -> type, of every function that a guest may import from `wasi_snapshot_preview1`.
FUNCTIONS: Mapping[str, Signature] = _signatures()

#: The functions that may ask for a nap.
NAPPING = frozenset({"poll_oneoff", "random_get"})

#: Those that need a descriptor of a kind which there is none of: the errno that each gives, whatever it is passed.
_REFUSED = {
    name: NOTSUP if name.startswith("sock_") else BADF
    for name in FUNCTIONS
    if name.startswith(("path_", "sock_", "fd_prestat_")) or name in ("fd_readdir", "fd_filestat_set_size")
}

#: Those that a stream cannot do: the errno for stdin, stdout and stderr.
_NOT_ON_STREAMS = {
    "fd_advise": SPIPE,
    "fd_allocate": SPIPE,
    "fd_pread": SPIPE,
    "fd_pwrite": SPIPE,
    "fd_seek": SPIPE,
    "fd_tell": SPIPE,
    "fd_filestat_set_times": INVAL,
    "fd_fdstat_set_rights": NOTSUP,
    "fd_renumber": NOTSUP,
    "fd_fdstat_set_flags": SUCCESS,
    "fd_datasync": SUCCESS,
    "fd_sync": SUCCESS,
}


class Wasi:
    """The WASI of one instance; used by the thread that runs it."""

    def __init__(self, host: Host, options: WasiOptions) -> None:
        self._host = host
        self._write_line = options.write
        self._args = _strings(options.args)
        self._env = _strings(tuple(f"{name}={value}" for name, value in options.env))
        self._open = {0, 1, 2}
        self._lines = {1: bytearray(), 2: bytearray()}

    def call(self, name: str, args: tuple[int, ...]) -> int | Nap:
        """Runs one function on unsigned arguments and gives its errno, or (of those in `NAPPING` alone) a nap. For
        `proc_exit` the number means nothing."""
        if name in _REFUSED:
            return _REFUSED[name]
        if name in _NOT_ON_STREAMS:
            return _NOT_ON_STREAMS[name] if args[0] in self._open else BADF
        try:
            answer: int | Nap = getattr(self, name)(*args)
        except OutOfBoundsError:
            return FAULT
        return answer

    def flush(self) -> None:
        """Writes what was printed without an end of line."""
        for fd, line in self._lines.items():
            if line:
                self._write_line(fd, bytes(line))
                line.clear()

    # Arguments, environment

    def args_get(self, pointers: int, buffer: int) -> int:
        return self._put_strings(self._args, pointers, buffer)

    def args_sizes_get(self, count: int, size: int) -> int:
        return self._put_sizes(self._args, count, size)

    def environ_get(self, pointers: int, buffer: int) -> int:
        return self._put_strings(self._env, pointers, buffer)

    def environ_sizes_get(self, count: int, size: int) -> int:
        return self._put_sizes(self._env, count, size)

    def _put_strings(self, strings: tuple[bytes, ...], pointers: int, buffer: int) -> int:
        self._host.write(buffer, b"".join(strings))
        offsets = []
        for string in strings:
            offsets.append(buffer)
            buffer += len(string)
        self._host.write(pointers, struct.pack(f"<{len(offsets)}I", *offsets))
        return SUCCESS

    def _put_sizes(self, strings: tuple[bytes, ...], count: int, size: int) -> int:
        self._put_u32(count, len(strings))
        self._put_u32(size, sum(map(len, strings)))
        return SUCCESS

    # Clocks, random numbers, sleep

    def clock_res_get(self, clock: int, result: int) -> int:
        if clock not in (_REALTIME, _MONOTONIC):
            return INVAL
        self._host.write(result, struct.pack("<Q", 1000))
        return SUCCESS

    def clock_time_get(self, clock: int, precision: int, result: int) -> int:  # noqa: ARG002
        if clock not in (_REALTIME, _MONOTONIC):
            return INVAL
        self._host.write(result, struct.pack("<Q", _now(clock)))
        return SUCCESS

    def random_get(self, buffer: int, size: int) -> int | Nap:
        if size <= RANDOM_SLICE:
            self._host.write(buffer, os.urandom(size))
            return SUCCESS
        self._host.peek(buffer + size, 0)  # all of it is there before any is filled

        def go_on() -> int | Nap:
            return self.random_get(buffer + RANDOM_SLICE, size - RANDOM_SLICE)

        self._host.write(buffer, os.urandom(RANDOM_SLICE))
        return Nap(0, go_on)

    def sched_yield(self) -> int:
        return SUCCESS

    def poll_oneoff(self, subscriptions: int, events: int, count: int, result: int) -> int | Nap:
        """Answers what is ready; where nothing is, a nap until the first clock, and then every one that is."""
        if not 0 < count <= MAX_SUBSCRIPTIONS:
            return INVAL
        data = self._host.peek(subscriptions, 48 * count)
        self._host.peek(events, 32 * count)
        ready = []
        clocks = []  # when each ends, of time.monotonic_ns(), with its userdata
        for at in range(0, len(data), 48):
            userdata, tag = struct.unpack_from("<QB", data, at)
            if tag == _CLOCK:
                clock, timeout, flags = struct.unpack_from("<I4xQ8xH", data, at + 16)
                if clock not in (_REALTIME, _MONOTONIC):
                    ready.append(_event(userdata, tag, INVAL))
                    continue
                delay = max(0, timeout - _now(clock)) if flags & 1 else timeout
                clocks.append((time.monotonic_ns() + delay, userdata))
            else:
                (fd,) = struct.unpack_from("<I", data, at + 16)
                if tag == _READABLE and fd == 0 and fd in self._open:
                    ready.append(_event(userdata, tag, ended=True))
                elif tag == _WRITABLE and fd in (1, 2) and fd in self._open:
                    ready.append(_event(userdata, tag, size=MAX_WRITE))
                else:
                    ready.append(_event(userdata, tag, BADF if tag <= _WRITABLE else INVAL))
        if ready:
            return self._put_events(ready, clocks, time.monotonic_ns(), events, result)
        first = min(clocks)[0]

        def wake() -> int:
            try:
                return self._put_events([], clocks, max(time.monotonic_ns(), first), events, result)
            except OutOfBoundsError:
                return FAULT

        delay = first - time.monotonic_ns()
        return Nap(delay / 1e9, wake) if delay > 0 else wake()

    def _put_events(self, ready: list[bytes], clocks: list[tuple[int, int]], now: int, events: int, result: int) -> int:
        ready += [_event(userdata, _CLOCK) for end, userdata in clocks if end <= now]
        self._host.write(events, b"".join(ready))
        self._put_u32(result, len(ready))
        return SUCCESS

    # Ends

    def proc_exit(self, code: int) -> int:
        self._host.exit(f"the guest ended itself with exit code {code}")
        return SUCCESS

    def proc_raise(self, signal: int) -> int:
        self._host.exit(f"the guest ended itself by signal {signal}")
        return SUCCESS

    # Streams

    def fd_write(self, fd: int, buffers: int, count: int, result: int) -> int:
        if fd not in self._lines or fd not in self._open:
            return BADF
        if count > MAX_BUFFERS:
            return INVAL
        taken = bytearray()
        for pointer, size in self._buffers(buffers, count):
            take = min(size, MAX_WRITE - len(taken))
            taken += self._host.peek(pointer, take)
            if take < size:
                break  # a short write, as on any stream: the guest writes the rest by the next call
        if taken.count(b"\n") > MAX_LINES:
            end = 0
            for _ in range(MAX_LINES):
                end = taken.index(b"\n", end) + 1
            del taken[end:]
        self._put_u32(result, len(taken))
        self._print(fd, taken)
        return SUCCESS

    def fd_read(self, fd: int, buffers: int, count: int, result: int) -> int:
        if fd != 0 or fd not in self._open:
            return BADF
        if count > MAX_BUFFERS:
            return INVAL
        for _ in self._buffers(buffers, count):
            pass  # only for the pointers to be checked
        self._put_u32(result, 0)
        return SUCCESS

    def fd_close(self, fd: int) -> int:
        if fd not in self._open:
            return BADF
        self._open.remove(fd)
        return SUCCESS

    def fd_fdstat_get(self, fd: int, result: int) -> int:
        if fd not in self._open:
            return BADF
        # A character device that cannot seek is a terminal to the C library, which then flushes at each line.
        rights = (_RIGHT_READ if fd == 0 else _RIGHT_WRITE) | _RIGHT_POLL
        self._host.write(result, struct.pack("<BxHxxxxQQ", _CHARACTER_DEVICE, 0, rights, 0))
        return SUCCESS

    def fd_filestat_get(self, fd: int, result: int) -> int:
        if fd not in self._open:
            return BADF
        self._host.write(result, struct.pack("<16xB7xQ32x", _CHARACTER_DEVICE, 1))
        return SUCCESS

    def _buffers(self, at: int, count: int) -> Iterator[tuple[int, int]]:
        return struct.iter_unpack("<II", self._host.peek(at, 8 * count))

    def _print(self, fd: int, data: bytearray) -> None:
        line = self._lines[fd]
        line += data
        start = 0
        while (end := line.find(b"\n", start, start + MAX_LINE + 1)) >= 0 or len(line) - start > MAX_LINE:
            stop = end if end >= 0 else start + MAX_LINE
            self._write_line(fd, bytes(line[start:stop]))
            start = stop + (end >= 0)
        del line[:start]

    def _put_u32(self, pointer: int, value: int) -> None:
        self._host.write(pointer, struct.pack("<I", value))


def _strings(values: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(value.encode(errors="replace").replace(b"\0", b"") + b"\0" for value in values)


def _now(clock: int) -> int:
    return time.time_ns() if clock == _REALTIME else time.monotonic_ns()


def _event(userdata: int, tag: int, errno: int = SUCCESS, *, size: int = 0, ended: bool = False) -> bytes:
    return struct.pack("<QHB5xQH6x", userdata, errno, tag, size, int(ended))
