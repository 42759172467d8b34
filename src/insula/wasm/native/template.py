"""A module linked to its imports, ready to be instantiated any number of times."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from ctypes import c_size_t, c_void_p
from typing import Any, NamedTuple

import wasmtime

from insula.wasm.contract import Signature
from insula.wasm.facts import AS_THEY_ARE, Places
from insula.wasm.machine import MAX_TABLE_ELEMENTS, machine
from insula.wasm.native.library import define_later, define_now, raise_error


class Definition(NamedTuple):
    """An import and what answers it. `later`: the answer may have to be waited for."""

    module: str
    name: str
    signature: Signature
    callback: Any
    later: bool


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
            define = define_later if entry.later else define_now
            raise_error(define(pointer, *texts, ctypes.cast(kind.ptr(), c_void_p), entry.callback, None, None))
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
