"""Reads wasmtime's traps and errors: a code and a bounded backtrace, but never a message that contains a backtrace.

The message of a trap is made by demangling every name in its backtrace. Names are the guest's: 221 bytes of nested C++
templates take wasmtime's demangler minutes and 14 GB. So no message is asked for where there is a backtrace. The frames
are read one by one: the index of the function, the offset in the module file, and the raw bytes of the name, which are cut
before anything looks at them. wasmtime itself takes the first twenty frames of a stack, however deep it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import wasmtime
from wasmtime import TrapCode
from wasmtime import _bindings as bindings

from insula.wasm.facts import Places

#: The most frames of a backtrace that are kept, and bytes of a function's name.
MAX_FRAMES = 20
MAX_NAME = 120

#: The longest message of wasmtime's own that is kept, in bytes.
_MAX_MESSAGE = 1000

_NO_OFFSET = (1 << 64) - 1
_CODES = {code.value: code for code in TrapCode}


class Frame(NamedTuple):
    """One function on the guest's stack. `offset` is in the module's file; None where it is not known."""

    function: int
    offset: int | None
    name: str


class EngineError(Exception):
    """How wasmtime says that a guest ended: `code` of a trap, else a message; `frames` from the innermost outwards."""

    def __init__(self, message: str, code: TrapCode | None = None, frames: Sequence[Frame] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.frames = frames


def of_trap(trap: wasmtime.Trap, places: Places) -> EngineError:
    """Reads a trap, and frees it."""
    number = bindings.wasmtime_trap_code_t()
    code = _CODES.get(number.value) if bindings.wasmtime_trap_code(trap.ptr(), number) else None
    frames = _frames(bindings.wasm_trap_trace, trap.ptr(), places)
    trap.close()
    return EngineError("trap" if code is None else code.name.lower(), code, frames)


def of_error(error: wasmtime.WasmtimeError, places: Places) -> EngineError:
    """Reads an error, and frees it. Its message is left alone where it has a backtrace."""
    frames = _frames(bindings.wasmtime_error_wasm_trace, error.ptr(), places)
    message = "an error while the guest ran" if frames else _message(error)
    error.close()
    return EngineError(message, frames=frames)


def _message(error: wasmtime.WasmtimeError) -> str:
    text = bindings.wasm_byte_vec_t()
    bindings.wasmtime_error_message(error.ptr(), text)
    try:
        return bytes(text.data[: min(text.size, _MAX_MESSAGE)]).decode(errors="replace")
    finally:
        bindings.wasm_byte_vec_delete(text)


def _frames(trace: Any, pointer: Any, places: Places) -> tuple[Frame, ...]:
    found = bindings.wasm_frame_vec_t()
    trace(pointer, found)
    try:
        frames = [_frame(found.data[n], places) for n in range(min(found.size, MAX_FRAMES))]
    finally:
        bindings.wasm_frame_vec_delete(found)
    return tuple(frame for frame in frames if frame.function < places.functions)


def _frame(frame: Any, places: Places) -> Frame:
    offset: int = bindings.wasm_frame_module_offset(frame)
    name = bindings.wasmtime_frame_func_name(frame)
    raw = bytes(name.contents.data[: min(name.contents.size, MAX_NAME + 1)]) if name else b""
    text = raw[:MAX_NAME].decode(errors="replace") + ("…" if len(raw) > MAX_NAME else "")
    return Frame(bindings.wasm_frame_func_index(frame), None if offset == _NO_OFFSET else places.place(offset), text)
