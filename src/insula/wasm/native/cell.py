"""The ways into one guest and out of it."""

from __future__ import annotations

import ctypes
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from ctypes import POINTER, byref, c_uint64, c_void_p
from typing import Any

import wasmtime
from wasmtime import _bindings as bindings

from insula.errors import GuestError
from insula.wasm.native.callbacks import cells, epoch_callback, stop
from insula.wasm.native.entry import Entry
from insula.wasm.native.library import (
    call_async,
    call_raw,
    delete_done,
    delete_error,
    delete_suspended,
    delete_trap,
    instantiate_async,
    poll_future,
    set_epoch_callback,
    set_epoch_deadline,
)
from insula.wasm.native.store import Store
from insula.wasm.native.template import Template
from insula.wasm.native.values import Slots, outcome_of, put
from insula.wasm.rewrite import ENTER
from insula.wasm.traps import of_error, of_trap

#: Epochs that a guest may run before it is looked at, on the loop and in a worker: the first is one to two periods of the
#: ticker. Each look takes the interpreter.
SLICE, LONG_SLICE = 2, 4
_SLICES = {SLICE: c_uint64(SLICE), LONG_SLICE: c_uint64(LONG_SLICE)}
_NO_TIME = c_uint64(0)
#: A packed result from here on is no output; its lower half is a length.
_NO_OUTPUT = 1 << 63
_LENGTH = 0xFFFFFFFF


class Cell(Store, ABC):
    """An instance that can be entered; used by one thread at a time.

    `failure` is what a callback raised: it is why the guest trapped. `yields` is set while a guest is on its way by
    `launch`; `depth` counts the host functions that are on its stack, and `helpers` the calls of small exports. `outcome`
    is set once there is what a suspended guest waits for; `rests` while the present poll is not to ask for it. An output
    has at most `limit` bytes. The abstract methods are the policy of what stands above (`LiveInstance`).
    """

    __slots__ = (
        *("_entered", "_future", "_gone", "_placed_by", "_placing", "depth", "epochs", "failure", "helpers", "limit"),
        *("outcome", "reply", "rests", "room", "room_at", "yields"),
    )

    def __init__(self, template: Template) -> None:
        super().__init__(template)
        self.failure: BaseException | None = None
        self.yields = False
        self.depth = 0
        self.helpers = 0
        self.rests = False
        self.epochs = SLICE
        self.limit = 0
        self.room_at = 0
        self.room = -1
        self.reply: tuple[Any, Slots, Any] | None = None
        self.outcome: Callable[[], Any] | None = None
        self._gone = False
        self._future = 0
        self._placing = 0
        self._placed_by: Entry | None = None
        self._entered: Entry | None = None

    # Its life

    def instantiate(self) -> None:
        """Makes the store and begins to make the instance; `poll` goes on with it, and `find_exports` follows."""
        if self.context or self._gone:
            raise GuestError("the instance is made already, or is gone")
        self.open()
        set_epoch_callback(self._pointer, epoch_callback, None, None)
        cells[self.context] = self
        self.slice()
        self.yields = True
        self._future = instantiate_async(
            self.template.pointer, self._context, byref(self._instance), self._trap, self._error
        )

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
            delete_suspended(future)
            if self._out[0] or self._out[1]:
                self._end()
        cells.pop(self.context, None)
        self.close_store(store)

    # Ways in

    def launch(self, export: str, args: tuple[int, ...]) -> int | None:
        """Enters an export on a fiber and polls once; `slice` was called before. As `poll`."""
        entry = self._entries.get(export) or self._entry(export)
        try:
            entry.fill(self._arguments, 0, *args)
        except struct.error:
            raise self._wrong_count(export) from None
        self.yields = True
        future = call_async(*entry.whole)
        if not poll_future(future):
            self._entered = entry
            self._future = future
            return None
        self.yields = False
        delete_done(future)
        trap, error, result = outcome_of(self._out)
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
        future = call_async(*entry.whole)
        if not poll_future(future):
            self._entered = entry
            self._future = future
            return None
        self.yields = False
        delete_done(future)
        trap, error, result = outcome_of(self._out)
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
        if not poll_future(self._future):
            return None
        self.yields = False
        future, self._future = self._future, 0
        delete_done(future)
        trap, error, result = outcome_of(self._out)
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
        error = call_raw(*entry.raw)
        out = self._out
        if error or out[0]:
            out[1] = error or 0
            raise self._end()
        return self._raw[0] & entry.mask

    def first_call(self, export: str, *args: int) -> int:
        """`call`, where it is the first of an exchange: the module forgets that a growth was refused."""
        return self.call(ENTER + export, *args)

    def put_in(self, export: str, data: bytes, first: bool = False) -> int:
        """`call` and `write` in one step, as `swap` is for an exchange: each of the two costs more than the guest."""
        size = len(data)
        if self.depth or self.template.waits:
            pointer = (self.first_call if first else self.call)(export, size or 1)
        else:
            entry = (self._firsts if first else self._helpers).get(export) or self._placer(export, first)
            self.helpers += 1
            try:
                entry.fill_raw(self._raw, 0, size or 1)
            except struct.error:
                raise self._wrong_count(export) from None
            error = call_raw(*entry.raw)
            out = self._out
            if error or out[0]:
                out[1] = error or 0
                raise self._end()
            pointer = self._raw[0] & entry.mask
        if pointer:
            end = pointer + size
            if end > self._size:
                self._check(pointer, size)
            self._view[pointer:end] = data
        return pointer

    def _placer(self, export: str, first: bool) -> Entry:
        if not first:
            return self._helper(export)
        entry = self._firsts[export] = self._helper(ENTER + export)
        return entry

    def drop(self, export: str, *pointers: int) -> None:
        if self.depth or self.template.waits:
            for pointer in pointers:
                self.call(export, pointer)
            return
        entry = self._helpers.get(export) or self._helper(export)
        fill, raw, arguments, out = entry.fill_raw, self._raw, entry.raw, self._out
        try:
            for pointer in pointers:
                self.helpers += 1
                fill(raw, 0, pointer)
                error = call_raw(*arguments)
                if error or out[0]:
                    out[1] = error or 0
                    raise self._end()
        except struct.error:
            raise self._wrong_count(export) from None

    def _call_on_fiber(self, export: str, entry: Entry, args: tuple[int, ...]) -> int:
        """A small export of a module that could come to an import that waits: a fiber, perhaps upon a fiber. It never
        yields, and what waits is refused, so that one poll is enough."""
        entry.fill(self._arguments, 0, *args)
        future = call_async(*entry.whole)
        out = self._out
        if not poll_future(future):
            delete_suspended(future)
            out[0] = out[1] = 0
            raise GuestError(f"the guest's {export} waits, which a helper export may not")
        delete_done(future)
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
        set_epoch_deadline(self._context, _SLICES[self.epochs])

    def yield_soon(self) -> None:
        """Ends the slice at the guest's next step."""
        if self._store is not None:
            set_epoch_deadline(self._context, _NO_TIME)

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
            delete_trap(trap)
        if error:
            delete_error(error)
        return self.failure

    # Under a host function

    def deliver(self) -> bool:
        """Passes on the answer that the guest waits for, now that its `outcome` is there; False where it waits again."""
        assert self.reply is not None
        results, slots, trap = self.reply
        try:
            given = self.answered()
            if given is None:
                return False
            put(results, slots, given)
        except BaseException as error:
            trap[0] = stop(self, error)
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
        self._placing = call_async(*entry.whole)
        return self.placed()

    def placed(self) -> int | None:
        """Goes on with it. Its result once it is done; None before."""
        depth, self.depth = self.depth, 0
        held = self.let_go()
        done = poll_future(self._placing)
        if held:
            self.take_back()
        self.depth = depth
        if not done:
            return None
        future, self._placing = self._placing, 0
        delete_done(future)
        out = self._out
        if out[0] or out[1]:
            raise self._end()
        assert self._placed_by is not None
        return out[3] & self._placed_by.mask

    def give_up_place(self) -> None:
        """Unwinds it where it is suspended."""
        if self._placing:
            future, self._placing = self._placing, 0
            delete_suspended(future)
            if self._out[0] or self._out[1]:
                self._end()

    # The policy of what stands above

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

    @abstractmethod
    def read(self, pointer: int, size: int, limit: int | None = None) -> bytes:
        """`peek` within `limit` bytes; LimitError."""
