"""A wasmtime store with one instance in it: its limits, its exports and its memory."""

from __future__ import annotations

from collections.abc import Iterable
from ctypes import byref, c_char, c_size_t, c_uint64, c_void_p
from typing import Any

import wasmtime
from wasmtime import _bindings as bindings

from insula.errors import GuestError, UnavailableError
from insula.wasm.contract import Signature
from insula.wasm.faults import MAX_TOLD, OutOfBoundsError, printable
from insula.wasm.machine import MAX_TABLES, machine
from insula.wasm.native.entry import Entry
from insula.wasm.native.library import (
    address,
    caller_export,
    global_get,
    instance_export,
    memory_base,
    memory_size,
    set_limits,
    view_of,
)
from insula.wasm.native.pages import PIECE, give_back
from insula.wasm.native.template import Template
from insula.wasm.native.values import KINDS, ROOM
from insula.wasm.rewrite import ENTER, REFUSED

_READ_WRITE = 0x200
_FUNC, _GLOBAL, _MEMORY = 0, 1, 3


class Store:
    """A store and its instance, used by one thread at a time. `open` makes the store, `close_store` frees it. `lost` while
    there is no instance: before it is made, and once it is gone."""

    __slots__ = (
        *(
            "_arguments",
            "_bytes",
            "_context",
            "_entries",
            "_error",
            "_firsts",
            "_helpers",
            "_instance",
            "_memory",
            "_memory_most",
        ),
        *("_out", "_pointer", "_raw", "_results", "_size", "_store", "_trap", "_view", "context", "lost", "template"),
    )

    def __init__(self, template: Template) -> None:
        if template.closed:
            raise UnavailableError("this version of the service is gone")
        self.template = template
        self.lost = True
        self.context = 0
        self._context = c_void_p()
        self._store: wasmtime.Store | None = None
        self._memory_most = template.memory_bytes
        self._instance = bindings.wasmtime_instance_t()
        self._entries: dict[str, Entry] = {}
        self._helpers: dict[str, Entry] = {}
        self._firsts: dict[str, Entry] = {}  # of an exchange: the module forgets that a growth was refused
        self._memory: Any = None
        self._view = memoryview(b"")
        self._bytes: Any = b""
        self._size = 0

    def open(self) -> None:
        """Makes the store and the buffers, in the thread that instantiates: that takes far longer than making a cell."""
        store = self._store = wasmtime.Store(machine().engine)
        self._pointer = address(store.ptr())
        self._context = address(store._context())
        self.context = self._context.value or 0
        self.limit_memory(self._memory_most)
        # see values.py
        self._arguments = (c_uint64 * (4 * ROOM))()
        self._raw = (c_uint64 * (2 * ROOM))()
        self._out = (c_uint64 * (2 + 4 * ROOM))()  # the trap, the error, the results
        self._trap, self._error, self._results = byref(self._out), byref(self._out, 8), byref(self._out, 16)
        self.template.living.add(self.context)

    def limit_memory(self, size: int) -> None:
        """Bounds the guest's memory, from now on. What it has already stays."""
        self._memory_most = size
        if self.context:
            set_limits(self._pointer, size, self.template.table_elements, 1, MAX_TABLES, 1)

    def close_store(self, store: wasmtime.Store) -> None:
        """Frees the store that was `_store` with its instance, once nothing of the guest's is under way."""
        size = self.size()
        if size > PIECE:
            give_back(memory_base(self._context, self._memory), size)
        self._view = memoryview(b"")
        self._bytes = b""
        self._size = 0
        self._memory = None
        self._entries.clear()
        self._helpers.clear()
        self._firsts.clear()
        store.close()
        self.template.living.discard(self.context)
        self.template.left()

    # Memory

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
        if caller_export(c_void_p(caller), b"memory", c_size_t(6), byref(found)) and found.kind == _MEMORY:
            self._memory = byref(found.of.memory)
            self._look()

    def growth_refused(self) -> bool:
        """Whether a growth of the memory was refused since the exchange began; looked up where a call has failed."""
        found = None if self.lost else self._export(REFUSED)
        if found is None or found.kind != _GLOBAL:
            return False
        value = bindings.wasmtime_val_t()
        global_get(self._context, byref(found.of.global_), byref(value))
        return bool(value.of.i32)

    def size(self) -> int:
        """Bytes of memory that the guest has now."""
        if self._memory is None:
            return 0
        size: int = memory_size(self._context, self._memory)
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

    def _check(self, pointer: int, size: int) -> None:
        self._look()  # it may have grown: a view that is older would cut what is read from it short
        if pointer < 0 or size < 0 or pointer + size > self._size:
            raise OutOfBoundsError(pointer, size, self._size)

    def _look(self) -> None:
        size = self.size()
        if size != self._size:
            base = memory_base(self._context, self._memory)
            self._view = view_of(base, size, _READ_WRITE) if size else memoryview(b"")
            self._bytes = (c_char * size).from_address(base) if size else b""  # a slice of it is a copy, in one step
            self._size = size

    # Exports

    def _entry(self, export: str) -> Entry:
        """An export as the entry of an exchange: the module forgets that a growth was refused."""
        entry = self._entries[export] = self._enterable(export, (ENTER + export, export))
        return entry

    def _helper(self, export: str) -> Entry:
        name = export.removeprefix(ENTER)
        entry = self._helpers[export] = self._enterable(name, dict.fromkeys((export, name)))
        return entry

    def _enterable(self, export: str, names: Iterable[str]) -> Entry:
        signature = self.template.exports.get(export)
        if signature is None:
            raise GuestError(f"the guest exports no function {printable(export, MAX_TOLD)}")
        kinds = (*signature.params, *signature.results)
        if len(signature.params) > ROOM or len(signature.results) > ROOM or not set(signature.params) <= KINDS.keys():
            raise GuestError(f"the guest's {export} has a type that cannot be called: {signature}")
        for name in names:
            found = self._export(name)
            if found is not None and found.kind == _FUNC and (kinds or signature == Signature()):
                return Entry(found.of.func, signature, self)
        raise GuestError(f"the guest exports no function {printable(export, MAX_TOLD)}")

    def _export(self, name: str) -> Any:
        if self.lost:  # the C API ends the process where it is asked for an export of no instance
            raise GuestError(f"the guest's {name} is not there: the instance is not made yet, or is gone")
        found = bindings.wasmtime_extern_t()
        text = name.encode()
        if not instance_export(self._context, byref(self._instance), text, c_size_t(len(text)), byref(found)):
            return None
        return found
