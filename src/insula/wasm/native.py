"""wasmtime's C API, called straight: the only file with ctypes.

The library is the one that the `wasmtime` package ships. Its own function objects are left alone; the ones here are fresh,
and take buffers that were laid out once. `Template` is a linked module, `Cell` a store with one instance of it; what owns
a native handle frees it once, however often it is closed.

Two ways into a guest
- `launch` and `poll`: on a fiber of the guest's own. A poll runs it until it is done, until it waits for an answer of the
  host, or until its slice of time is over; the next poll, in whatever thread, goes on from there.
- `call`: for small exports, without leaving this thread. A raw call, where nothing that the module imports can wait; else a
  fiber too, since a raw call that came to such an import would end the process.

What would kill the process, and what holds it off
- An exception that leaves a callback: each callback catches all of them, keeps the first (`failure`) and traps the guest.
- A fiber that is suspended while Python is on its stack: within a host function the guest is never made to yield. A helper
  export that makes room for its answer may: it is on a fiber of its own, and the guest is suspended once Python has left.
- A signature longer than the buffers, or of other types: refused before the call.
- A pointer into a memory that moved or ended: memories cannot move (config), and a freed cell has no view.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from ctypes import CFUNCTYPE, POINTER, byref, c_bool, c_char, c_int64, c_size_t, c_uint8, c_uint64, c_void_p
from typing import Any, NamedTuple, TypeAlias

import wasmtime
from wasmtime import _bindings as bindings
from wasmtime import _ffi

from insula.errors import GuestError, UnavailableError
from insula.wasm.contract import Signature
from insula.wasm.facts import AS_THEY_ARE, Places
from insula.wasm.faults import MAX_TOLD, OutOfBoundsError, printable
from insula.wasm.machine import MAX_TABLE_ELEMENTS, MAX_TABLES, machine
from insula.wasm.rewrite import ENTER, REFUSED
from insula.wasm.traps import of_error, of_trap

#: The longest parameter or result list of a function that is entered or imported.
ROOM = 16

#: Epochs that a guest may run before it is looked at, on the loop and in a worker: the first is one to two periods of the
#: ticker. Each look takes the interpreter.
SLICE, LONG_SLICE = 2, 4
_SLICES = {SLICE: c_uint64(SLICE), LONG_SLICE: c_uint64(LONG_SLICE)}
_NO_TIME = c_uint64(0)

_KINDS = {"i32": 0, "i64": 1}
_MASKS = {"i32": 0xFFFFFFFF, "i64": 0xFFFFFFFFFFFFFFFF}
#: A packed result from here on is no output; its lower half is a length.
_NO_OUTPUT = 1 << 63
_LENGTH = 0xFFFFFFFF
_COUNTS = tuple(c_size_t(n) for n in range(ROOM + 1))
_CONTINUE, _YIELD = 0, 1
_READ_WRITE = 0x200
_FUNC, _GLOBAL, _MEMORY = 0, 1, 3

# What enters a guest lets go of the interpreter; what only looks something up does not.
_ENTERING = ctypes.CDLL(_ffi.dll._name)
_LOOKING = ctypes.PyDLL(_ffi.dll._name)


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[name]
    function.restype = result
    if arguments:  # else every argument is a ctypes object already, and nothing is converted
        function.argtypes = arguments
    return function


_call_raw = _function(_ENTERING, "wasmtime_func_call_unchecked", c_void_p)
_call_async = _function(_LOOKING, "wasmtime_func_call_async", c_void_p)
_instantiate_async = _function(_LOOKING, "wasmtime_instance_pre_instantiate_async", c_void_p)
_poll = _function(_ENTERING, "wasmtime_call_future_poll", c_bool, c_void_p)
_delete_done = _function(_LOOKING, "wasmtime_call_future_delete", None, c_void_p)
_delete_suspended = _function(_ENTERING, "wasmtime_call_future_delete", None, c_void_p)
_set_epoch_deadline = _function(_LOOKING, "wasmtime_context_set_epoch_deadline", None)
_set_epoch_callback = _function(_LOOKING, "wasmtime_store_epoch_deadline_callback", None)
_context_of = _function(_LOOKING, "wasmtime_caller_context", c_size_t, c_void_p)
_caller_export = _function(_LOOKING, "wasmtime_caller_export_get", c_bool)
_instance_export = _function(_LOOKING, "wasmtime_instance_export_get", c_bool)
_global_get = _function(_LOOKING, "wasmtime_global_get", None)
_memory_base = _function(_LOOKING, "wasmtime_memory_data", c_void_p)
_memory_size = _function(_LOOKING, "wasmtime_memory_data_size", c_size_t)
_new_trap = _function(_LOOKING, "wasmtime_trap_new", c_void_p, ctypes.c_char_p, c_size_t)
_new_error = _function(_LOOKING, "wasmtime_error_new", c_void_p, ctypes.c_char_p)
_delete_trap = _function(_LOOKING, "wasm_trap_delete", None, c_void_p)
_delete_error = _function(_LOOKING, "wasmtime_error_delete", None, c_void_p)
_set_limits = _function(_LOOKING, "wasmtime_store_limiter", None, c_void_p, *(c_int64,) * 5)
_define = _function(_LOOKING, "wasmtime_linker_define_func_unchecked", c_void_p)
_define_async = _function(_LOOKING, "wasmtime_linker_define_async_func", c_void_p)
_view_of = ctypes.PYFUNCTYPE(ctypes.py_object, c_void_p, c_size_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)

_NowCallback = CFUNCTYPE(c_size_t, c_size_t, c_size_t, POINTER(c_uint64))
_LaterCallback = CFUNCTYPE(
    None,
    *(c_size_t, c_size_t, POINTER(c_uint64), c_size_t, POINTER(c_uint64), c_size_t),
    *(POINTER(c_size_t), POINTER(c_size_t)),
)
_EpochCallback = CFUNCTYPE(c_size_t, c_size_t, c_size_t, POINTER(c_uint64), POINTER(c_uint8))
_Continuation = CFUNCTYPE(c_bool, c_size_t)

#: Where each result of a host function goes, in steps of 8 bytes, and its kind.
Slots: TypeAlias = tuple[tuple[int, int], ...]

#: Every live cell by the address of its store's context, which is what callbacks are given.
_cells: dict[int, Cell] = {}


# Callbacks


def _stop(cell: Cell | None, error: BaseException) -> int:
    """Keeps the first error of a cell, and gives a trap to stop the guest with."""
    if cell is not None and cell.failure is None:
        cell.failure = error
    return _new_trap(b"stopped by the host", 19) or 0


def _on_epoch(context: int, _data: int, delta: Any, kind: Any) -> int:
    cell = None
    try:
        cell = _cells[context]
        delta[0] = cell.epochs
        cell.weigh()
        if cell.yields and not cell.depth:
            kind[0] = _YIELD
        else:
            kind[0] = _CONTINUE
            delta[0] = 1
            cell.overrun()
        return 0
    except BaseException as error:
        if cell is not None and cell.failure is None:
            cell.failure = error
        return _new_error(b"stopped by the host") or 0


def _is_ready(_context: int) -> bool:
    return True


def _is_answered(context: int) -> bool:
    cell = _cells[context]
    if cell.rests:  # asked at once, in the poll in which it began to wait: its slice is over
        cell.rests = False
        return False
    return (cell.outcome is not None or cell.placing) and cell.deliver()


#: Kept for ever: wasmtime has their addresses.
_epoch_callback, _ready_callback, _answered_callback = (
    _EpochCallback(_on_epoch),
    _Continuation(_is_ready),
    _Continuation(_is_answered),
)
_READY = ctypes.cast(_ready_callback, c_void_p).value or 0
_ANSWERED = ctypes.cast(_answered_callback, c_void_p).value or 0


class Definition(NamedTuple):
    """An import and what answers it. `later`: the answer may have to be waited for."""

    module: str
    name: str
    signature: Signature
    callback: Any
    later: bool


def now(signature: Signature, handler: Callable[[Any, tuple[int, ...]], tuple[int, ...]]) -> Any:
    """A callback that answers at once: `handler` gets the cell and the unsigned arguments, and gives the results."""
    params, results = _masks(signature.params), _masks(signature.results)

    def callback(_env: int, caller: int, values: Any) -> int:
        cell = None
        try:
            cell = _cells[_context_of(caller)]
            if cell.lost:
                cell.find_memory(caller)
            answer = handler(cell, tuple([values[2 * n] & mask for n, mask in params]))
            for n, mask in results:
                values[2 * n] = answer[n] & mask
            return 0
        except BaseException as error:
            return _stop(cell, error)

    return _NowCallback(callback)


def later(
    signature: Signature, handler: Callable[[Any, tuple[int, ...]], tuple[int, ...] | None], *, name: str = ""
) -> Any:
    """A callback that may wait: where `handler` gives None, `Cell.answered` is asked at each poll. One with a `name` is
    refused to the module's start function, which runs before there are exports."""
    params = tuple((4 * n + 1, mask) for n, mask in _masks(signature.params))
    slots = tuple((4 * n, _KINDS[kind]) for n, kind in enumerate(signature.results))
    two = [at for at, _ in params] == [1, 5]
    first, second = (mask for _, mask in params) if two else (0, 0)

    def callback(
        _env: int, caller: int, values: Any, _count: int, results: Any, _room: int, trap: Any, continuation: Any
    ) -> None:
        continuation[0] = _READY  # before anything can fail: an empty one is called all the same
        cell = None
        try:
            context = _context_of(caller)
            cell = _cells[context]
            if cell.lost:
                if name:
                    raise GuestError(
                        f"the module's start function calls {name}, which answers through the module's exports: "
                        "there are none before the start function is over",
                        reason="start",
                        hint="call the host in _initialize, or in the first call",
                    )
                cell.find_memory(caller)
            if two:  # as an ABI's are
                answer = handler(cell, (values[1] & first, values[5] & second))
            else:
                answer = handler(cell, tuple([values[at] & mask for at, mask in params]))
            if answer is None:
                cell.reply = results, slots, trap
                cell.rests = cell.placing
                continuation[0] = _ANSWERED
                continuation[1] = context
            else:
                _put(results, slots, answer)
        except BaseException as error:
            trap[0] = _stop(cell, error)

    return _LaterCallback(callback)


def _put(results: Any, slots: Slots, values: tuple[int, ...]) -> None:
    for (at, kind), value in zip(slots, values, strict=True):
        results[at] = kind
        results[at + 1] = value


def _masks(kinds: Sequence[str]) -> tuple[tuple[int, int], ...]:
    if len(kinds) > ROOM or not _KINDS.keys() >= set(kinds):
        raise ValueError(f"a host function takes and gives at most {ROOM} integers")
    return tuple((n, _MASKS[kind]) for n, kind in enumerate(kinds))


def _address(pointer: Any) -> c_void_p:
    """Where a pointer leads. A cast of it would hold itself, and be garbage that only the collector finds."""
    return c_void_p(c_void_p.from_buffer(pointer).value)


class Template:
    """A module linked to its imports, ready to be instantiated any number of times."""

    def __init__(
        self,
        module: wasmtime.Module,
        exports: dict[str, Signature],
        definitions: Sequence[Definition],
        *,
        memory_bytes: int,
        table_elements: int,
        places: Places = AS_THEY_ARE,
    ) -> None:
        self.exports = exports
        self.places = places
        self.waits = any(definition.later for definition in definitions)
        self.memory_bytes = memory_bytes
        self.table_elements = min(table_elements, MAX_TABLE_ELEMENTS)
        self._callbacks = [definition.callback for definition in definitions]
        linker = wasmtime.Linker(machine().engine)
        pointer = ctypes.cast(linker.ptr(), c_void_p)
        for entry in definitions:
            texts: list[Any] = []
            for text in (entry.module.encode(), entry.name.encode()):
                texts += [text, c_size_t(len(text))]
            kind = wasmtime.FuncType(_types(entry.signature.params), _types(entry.signature.results))
            define = _define_async if entry.later else _define
            _raise(define(pointer, *texts, ctypes.cast(kind.ptr(), c_void_p), entry.callback, None, None))
        self.living: set[int] = set()  # the contexts of its cells
        self.closed = False
        self._pre = [linker.instantiate_pre(module)]
        linker.close()
        self.pointer = ctypes.cast(self._pre[0].ptr(), c_void_p)

    def close(self) -> None:
        """Lets go of the module's code, at once or with the last cell. No cell is made any more. Idempotent."""
        self.closed = True
        self.left()

    def left(self) -> None:
        """A cell is gone; in whatever thread."""
        if self.closed and not self.living:
            with contextlib.suppress(IndexError):  # the other of two threads
                self._pre.pop().close()


def _types(kinds: Sequence[str]) -> list[wasmtime.ValType]:
    return [wasmtime.ValType.i32() if kind == "i32" else wasmtime.ValType.i64() for kind in kinds]


@functools.cache
def _filler(params: tuple[str, ...]) -> Callable[..., None]:
    """What lays arguments out as values of the C API: 32 bytes each, the kind in the first, the number in the second 8."""
    fill = struct.Struct("=" + "8xQ16x" * len(params)).pack_into
    others = [(4 * n, _KINDS[kind]) for n, kind in enumerate(params) if _KINDS[kind]]
    if not others:
        return fill

    def fill_and_tell(values: Any, at: int, *args: int) -> None:
        fill(values, at, *args)
        for n, kind in others:
            values[n] = kind

    return fill_and_tell


@functools.cache
def _raw_filler(count: int) -> Callable[..., None]:
    """What lays arguments out raw: 16 bytes each."""
    return struct.Struct("=" + "Q8x" * count).pack_into


#: Out of a cell's `_out`: trap, error, and the number of the first result.
_outcome = struct.Struct("=QQ8xQ").unpack_from


class _Entry:
    """An export that can be entered, with all that this takes, made once: `fill` and `fill_raw` write its arguments, and
    `whole` and `raw` are what `wasmtime_func_call_async` and `wasmtime_func_call_unchecked` are called with. `mask` is of
    its result; 0 where it has none, or more than one."""

    __slots__ = ("fill", "fill_raw", "function", "mask", "raw", "whole")

    def __init__(self, function: Any, signature: Signature, cell: Cell) -> None:
        self.function = function  # kept, since the two below have only its address
        pointer, context = byref(function), cell._context
        count, results = len(signature.params), signature.results
        self.fill = _filler(signature.params)
        self.fill_raw = _raw_filler(count)
        self.mask = _MASKS.get(results[0], 0) if len(results) == 1 else 0
        ends = cell._trap, cell._error
        self.whole = (
            context, pointer, cell._arguments, _COUNTS[count], cell._results, _COUNTS[len(results)], *ends,
        )  # fmt: skip
        self.raw = (context, pointer, cell._raw, _COUNTS[ROOM], cell._trap)


class Cell(ABC):
    """A store and one instance in it; used by one thread at a time. The store is made by `open`.

    `failure` is what a callback raised: it is why the guest trapped. `yields` is set while a guest is on its way by
    `launch`; `depth` counts the host functions that are on its stack, and `helpers` the calls of small exports. `outcome`
    is set once there is what a suspended guest waits for; `rests` while the present poll is not to ask for it. An output
    has at most `limit` bytes. The abstract methods are the policy of what stands above (`LiveInstance`).
    """

    __slots__ = (
        *(
            "_arguments",
            "_bytes",
            "_context",
            "_entered",
            "_entries",
            "_error",
            "_future",
            "_gone",
            "_helpers",
            "_instance",
            "_memory",
            "_memory_most",
            "_out",
            "_placed_by",
            "_placing",
            "_pointer",
        ),
        *("_raw", "_results", "_size", "_store", "_trap", "_view", "context", "depth", "epochs"),
        *("failure", "helpers", "limit", "lost", "outcome", "reply", "rests", "room", "room_at", "template", "yields"),
    )

    def __init__(self, template: Template) -> None:
        if template.closed:
            raise UnavailableError("this version of the service is gone")
        self.template = template
        self.failure: BaseException | None = None
        self.yields = False
        self.depth = 0
        self.helpers = 0
        self.lost = True
        self.rests = False
        self.epochs = SLICE
        self.limit = 0
        self.room_at = 0
        self.room = -1
        self.reply: tuple[Any, Slots, Any] | None = None
        self.outcome: Callable[[], Any] | None = None
        self._store: wasmtime.Store | None = None
        self._context = c_void_p()
        self.context = 0
        self._gone = False
        self._memory_most = template.memory_bytes
        self._future = 0
        self._placing = 0
        self._placed_by: _Entry | None = None
        self._instance = bindings.wasmtime_instance_t()
        self._entries: dict[str, _Entry] = {}
        self._helpers: dict[str, _Entry] = {}
        self._entered: _Entry | None = None
        self._memory: Any = None
        self._view = memoryview(b"")
        self._bytes: Any = b""
        self._size = 0

    def open(self) -> None:
        """Makes the store and the buffers, in the thread that instantiates: that takes far longer than making a cell."""
        store = self._store = wasmtime.Store(machine().engine)
        self._pointer = _address(store.ptr())
        self._context = _address(store._context())
        self.context = self._context.value or 0
        self.limit_memory(self._memory_most)
        _set_epoch_callback(self._pointer, _epoch_callback, None, None)
        # A value of the C API is 32 bytes, its kind in the first; a raw one is 16.
        self._arguments = (c_uint64 * (4 * ROOM))()
        self._raw = (c_uint64 * (2 * ROOM))()
        self._out = (c_uint64 * (2 + 4 * ROOM))()  # the trap, the error, the results
        self._trap, self._error, self._results = byref(self._out), byref(self._out, 8), byref(self._out, 16)
        _cells[self.context] = self
        self.template.living.add(self.context)

    def limit_memory(self, size: int) -> None:
        """Bounds the guest's memory, from now on. What it has already stays."""
        self._memory_most = size
        if self.context:
            _set_limits(self._pointer, size, self.template.table_elements, 1, MAX_TABLES, 1)

    # Ways in

    def instantiate(self) -> None:
        """Makes the store and begins to make the instance; `poll` goes on with it, and `find_exports` follows."""
        if self.context or self._gone:
            raise GuestError("the instance is made already, or is gone")
        self.open()
        self.slice()
        self.yields = True
        self._future = _instantiate_async(
            self.template.pointer, self._context, byref(self._instance), self._trap, self._error
        )

    def launch(self, export: str, args: tuple[int, ...]) -> int | None:
        """Enters an export on a fiber and polls once; `slice` was called before. As `poll`."""
        entry = self._entries.get(export) or self._entry(export)
        try:
            entry.fill(self._arguments, 0, *args)
        except struct.error:
            raise self._wrong_count(export) from None
        self.yields = True
        future = _call_async(*entry.whole)
        if not _poll(future):
            self._entered = entry
            self._future = future
            return None
        self.yields = False
        _delete_done(future)
        trap, error, result = _outcome(self._out)
        if trap or error:
            raise self._end()
        given: int = result & entry.mask
        return given

    def swap(self, export: str, number: int, payload: bytes) -> bytes | int | None:
        """`launch` with an input that `room` holds, its number and its length, and the output read: the whole of a plain
        exchange. What was given, where that is no output; None where the guest is not done."""
        entry = self._entries.get(export) or self._entry(export)
        size = len(payload)
        end = self.room_at + size
        if end > self._size:
            self._check(self.room_at, size)
        self._view[self.room_at : end] = payload
        entry.fill(self._arguments, 0, number, size)
        self.yields = True
        future = _call_async(*entry.whole)
        if not _poll(future):
            self._entered = entry
            self._future = future
            return None
        self.yields = False
        _delete_done(future)
        trap, error, result = _outcome(self._out)
        if trap or error:
            raise self._end()
        if not 0 < result < _NO_OUTPUT:
            return int(result)
        at = result >> 32
        end = at + (result & _LENGTH)
        if end > self._size or end - at > self.limit:
            return self.read(at, end - at)
        output: bytes = self._bytes[at:end]
        return output

    def poll(self) -> int | None:
        """Goes on. What the guest gave (0 where it gives nothing) once it is done, None before. Raises its end where that
        was a trap."""
        if not self._future:
            raise GuestError("nothing of the guest's is under way")
        if not _poll(self._future):
            return None
        self.yields = False
        future, self._future = self._future, 0
        _delete_done(future)
        trap, error, result = _outcome(self._out)
        if trap or error:
            raise self._end()
        entry = self._entered
        return result & entry.mask if entry is not None else 0

    def call(self, export: str, *args: int) -> int:
        """Runs a small export to its end, here and now; its result, or 0 where it has none."""
        if not self.depth:
            return self._call(export, args)
        held = self.let_go()
        try:
            return self._call(export, args)
        finally:
            if held:
                self.take_back()

    def _call(self, export: str, args: tuple[int, ...]) -> int:
        entry = self._helpers.get(export) or self._helper(export)
        self.helpers += 1
        try:
            if self.template.waits:
                return self._call_on_fiber(export, entry, args)
            entry.fill_raw(self._raw, 0, *args)
        except struct.error:
            raise self._wrong_count(export) from None
        error = _call_raw(*entry.raw)
        out = self._out
        if error or out[0]:
            out[1] = error or 0
            raise self._end()
        return self._raw[0] & entry.mask

    def first_call(self, export: str, *args: int) -> int:
        """`call`, where it is the first of an exchange: the module forgets that a growth was refused."""
        return self.call(ENTER + export, *args)

    def _call_on_fiber(self, export: str, entry: _Entry, args: tuple[int, ...]) -> int:
        """A small export of a module that could come to an import that waits: a fiber, perhaps upon a fiber. It never
        yields, and what waits is refused, so that one poll is enough."""
        entry.fill(self._arguments, 0, *args)
        future = _call_async(*entry.whole)
        out = self._out
        if not _poll(future):
            _delete_suspended(future)
            out[0] = out[1] = 0
            raise GuestError(f"the guest's {export} waits, which a helper export may not")
        _delete_done(future)
        if out[0] or out[1]:
            raise self._end()
        return out[3] & entry.mask

    def _wrong_count(self, export: str) -> GuestError:
        export = export.removeprefix(ENTER)
        return GuestError(f"the guest's {export} takes {len(self.template.exports[export].params)} arguments")

    def slice(self) -> None:
        """Gives the guest a new slice of time from now on."""
        if self._store is None:
            raise GuestError("the instance is gone")
        _set_epoch_deadline(self._context, _SLICES[self.epochs])

    def yield_soon(self) -> None:
        """Ends the slice at the guest's next step."""
        if self._store is not None:
            _set_epoch_deadline(self._context, _NO_TIME)

    def deliver(self) -> bool:
        """Passes on the answer that the guest waits for, now that its `outcome` is there; False where it waits again."""
        assert self.reply is not None
        results, slots, trap = self.reply
        try:
            given = self.answered()
            if given is None:
                return False
            _put(results, slots, given)
        except BaseException as error:
            trap[0] = _stop(self, error)
        self.reply = None
        return True

    # A helper export under a host function, on a fiber of its own upon the guest's: nothing of the interpreter is on either
    # once the poll has returned, so both may be suspended.

    @property
    def placing(self) -> bool:
        """Whether such a helper is under way."""
        return self._placing != 0

    def place(self, export: str, size: int) -> int | None:
        """Enters a helper export with one argument, and polls once. As `placed`."""
        entry = self._placed_by = self._helpers.get(export) or self._helper(export)
        self.helpers += 1
        try:
            entry.fill(self._arguments, 0, size)
        except struct.error:
            raise self._wrong_count(export) from None
        self._placing = _call_async(*entry.whole)
        return self.placed()

    def placed(self) -> int | None:
        """Goes on with it. Its result once it is done; None before."""
        depth, self.depth = self.depth, 0
        held = self.let_go()
        done = _poll(self._placing)
        if held:
            self.take_back()
        self.depth = depth
        if not done:
            return None
        future, self._placing = self._placing, 0
        _delete_done(future)
        out = self._out
        if out[0] or out[1]:
            raise self._end()
        assert self._placed_by is not None
        return out[3] & self._placed_by.mask

    def give_up_place(self) -> None:
        """Unwinds it where it is suspended."""
        if self._placing:
            future, self._placing = self._placing, 0
            _delete_suspended(future)
            if self._out[0] or self._out[1]:
                self._end()

    @abstractmethod
    def let_go(self) -> bool:
        """The guest goes on under a host function. Whether `take_back` follows."""

    @abstractmethod
    def take_back(self) -> None:
        """It has come back to the host function."""

    @abstractmethod
    def weigh(self) -> None:
        """A slice is over: raises where the guest has more memory than is left for it."""

    @abstractmethod
    def overrun(self) -> None:
        """A slice is over where the guest cannot yield: raises where it is to end."""

    @abstractmethod
    def answered(self) -> tuple[int, ...] | None:
        """The results of the host function that the guest waits for, out of its `outcome`, which is taken; None where the
        guest has to wait again, or a helper export has to make room for them first, and is not done."""

    def _end(self) -> BaseException:
        """Why the guest ended: what a callback raised, else wasmtime's trap or error. Both ends are freed."""
        out = self._out
        trap, error = out[0], out[1]
        out[0] = out[1] = 0
        if self.failure is None:
            places = self.template.places
            if trap:
                made = wasmtime.Trap._from_ptr(ctypes.cast(c_void_p(trap), POINTER(bindings.wasm_trap_t)))
                return of_trap(made, places)
            return of_error(
                wasmtime.WasmtimeError._from_ptr(ctypes.cast(c_void_p(error), POINTER(bindings.wasmtime_error_t))),
                places,
            )
        if trap:
            _delete_trap(trap)
        if error:
            _delete_error(error)
        return self.failure

    # Exports and memory

    def find_exports(self) -> None:
        """Once it is instantiated: where its memory is."""
        self.lost = False
        if self._memory is None:
            found = self._export("memory")
            if found is not None and found.kind == _MEMORY:
                self._memory = byref(found.of.memory)
        self._look()

    def find_memory(self, caller: int) -> None:
        """While the module's start function runs there are no exports yet: the memory is asked of the caller."""
        found: Any = bindings.wasmtime_extern_t()
        if _caller_export(c_void_p(caller), b"memory", c_size_t(6), byref(found)) and found.kind == _MEMORY:
            self._memory = byref(found.of.memory)
            self._look()

    def growth_refused(self) -> bool:
        """Whether a growth of the memory was refused since the exchange began; looked up where a call has failed."""
        found = None if self.lost else self._export(REFUSED)
        if found is None or found.kind != _GLOBAL:
            return False
        value = bindings.wasmtime_val_t()
        _global_get(self._context, byref(found.of.global_), byref(value))
        return bool(value.of.i32)

    def size(self) -> int:
        """Bytes of memory that the guest has now."""
        if self._memory is None:
            return 0
        size: int = _memory_size(self._context, self._memory)
        return size

    def peek(self, pointer: int, size: int) -> bytes:
        """A copy of guest memory; OutOfBoundsError."""
        end = pointer + size
        if not 0 <= pointer <= end <= self._size:
            self._check(pointer, size)
        copy: bytes = self._bytes[pointer:end]
        return copy

    def write(self, pointer: int, data: bytes) -> None:
        """Writes guest memory; OutOfBoundsError before anything is written."""
        end = pointer + len(data)
        if end > self._size or pointer < 0:
            self._check(pointer, len(data))
        self._view[pointer:end] = data

    @abstractmethod
    def read(self, pointer: int, size: int, limit: int | None = None) -> bytes:
        """`peek` within `limit` bytes; LimitError."""

    def _check(self, pointer: int, size: int) -> None:
        self._look()  # it may have grown: a view that is older would cut what is read from it short
        if pointer < 0 or size < 0 or pointer + size > self._size:
            raise OutOfBoundsError(pointer, size, self._size)

    def _look(self) -> None:
        size = self.size()
        if size != self._size:
            base = _memory_base(self._context, self._memory)
            self._view = _view_of(base, size, _READ_WRITE) if size else memoryview(b"")
            self._bytes = (c_char * size).from_address(base) if size else b""  # a slice of it is a copy, in one step
            self._size = size

    def _entry(self, export: str) -> _Entry:
        """An export as the entry of an exchange: the module forgets that a growth was refused."""
        entry = self._entries[export] = self._enterable(export, (ENTER + export, export))
        return entry

    def _helper(self, export: str) -> _Entry:
        name = export.removeprefix(ENTER)
        entry = self._helpers[export] = self._enterable(name, dict.fromkeys((export, name)))
        return entry

    def _enterable(self, export: str, names: Iterable[str]) -> _Entry:
        signature = self.template.exports.get(export)
        if signature is None:
            raise GuestError(f"the guest exports no function {printable(export, MAX_TOLD)}")
        kinds = (*signature.params, *signature.results)
        if len(signature.params) > ROOM or len(signature.results) > ROOM or not set(signature.params) <= _KINDS.keys():
            raise GuestError(f"the guest's {export} has a type that cannot be called: {signature}")
        for name in names:
            found = self._export(name)
            if found is not None and found.kind == _FUNC and (kinds or signature == Signature()):
                return _Entry(found.of.func, signature, self)
        raise GuestError(f"the guest exports no function {printable(export, MAX_TOLD)}")

    def _export(self, name: str) -> Any:
        if self.lost:  # the C API ends the process where it is asked for an export of no instance
            raise GuestError(f"the guest's {name} is not there: the instance is not made yet, or is gone")
        found = bindings.wasmtime_extern_t()
        text = name.encode()
        if not _instance_export(self._context, byref(self._instance), text, c_size_t(len(text)), byref(found)):
            return None
        return found

    def dispose(self) -> None:
        """Frees the instance and its store; idempotent. Where a fiber is suspended, it is unwound first."""
        self._gone = True
        if self._store is None:
            return
        if self.depth:  # its stack is below: freeing it would end the process
            raise RuntimeError("an instance is freed from within its own host function")
        store, self._store = self._store, None
        self.lost = True
        self.give_up_place()
        if self._future:
            future, self._future = self._future, 0
            _delete_suspended(future)
            if self._out[0] or self._out[1]:
                self._end()
        self._view = memoryview(b"")
        self._bytes = b""
        self._size = 0
        self._memory = None
        self._entries.clear()
        self._helpers.clear()
        _cells.pop(self.context, None)
        store.close()
        self.template.living.discard(self.context)
        self.template.left()


def _raise(error: int | None) -> None:
    if error:
        raise wasmtime.WasmtimeError._from_ptr(ctypes.cast(c_void_p(error), POINTER(bindings.wasmtime_error_t)))
