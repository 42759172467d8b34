"""The functions of wasmtime's C API that are used here, as fresh objects of ctypes.

The library is the one that the `wasmtime` package ships. Its own function objects are left alone.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_bool, c_int64, c_size_t, c_uint8, c_uint64, c_void_p
from typing import Any

import wasmtime
from wasmtime import _bindings as bindings
from wasmtime import _ffi

# What enters a guest lets go of the interpreter; what only looks something up does not.
_ENTERING = ctypes.CDLL(_ffi.dll._name)
_LOOKING = ctypes.PyDLL(_ffi.dll._name)


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[name]
    function.restype = result
    if arguments:  # else every argument is a ctypes object already, and nothing is converted
        function.argtypes = arguments
    return function


call_raw = _function(_ENTERING, "wasmtime_func_call_unchecked", c_void_p)
call_async = _function(_LOOKING, "wasmtime_func_call_async", c_void_p)
instantiate_async = _function(_LOOKING, "wasmtime_instance_pre_instantiate_async", c_void_p)
poll_future = _function(_ENTERING, "wasmtime_call_future_poll", c_bool, c_void_p)
delete_done = _function(_LOOKING, "wasmtime_call_future_delete", None, c_void_p)
delete_suspended = _function(_ENTERING, "wasmtime_call_future_delete", None, c_void_p)
set_epoch_deadline = _function(_LOOKING, "wasmtime_context_set_epoch_deadline", None)
set_epoch_callback = _function(_LOOKING, "wasmtime_store_epoch_deadline_callback", None)
context_of = _function(_LOOKING, "wasmtime_caller_context", c_size_t, c_void_p)
caller_export = _function(_LOOKING, "wasmtime_caller_export_get", c_bool)
instance_export = _function(_LOOKING, "wasmtime_instance_export_get", c_bool)
global_get = _function(_LOOKING, "wasmtime_global_get", None)
memory_base = _function(_LOOKING, "wasmtime_memory_data", c_void_p)
memory_size = _function(_LOOKING, "wasmtime_memory_data_size", c_size_t)
new_trap = _function(_LOOKING, "wasmtime_trap_new", c_void_p, ctypes.c_char_p, c_size_t)
new_error = _function(_LOOKING, "wasmtime_error_new", c_void_p, ctypes.c_char_p)
delete_trap = _function(_LOOKING, "wasm_trap_delete", None, c_void_p)
delete_error = _function(_LOOKING, "wasmtime_error_delete", None, c_void_p)
set_limits = _function(_LOOKING, "wasmtime_store_limiter", None, c_void_p, *(c_int64,) * 5)
define_now = _function(_LOOKING, "wasmtime_linker_define_func_unchecked", c_void_p)
define_later = _function(_LOOKING, "wasmtime_linker_define_async_func", c_void_p)
view_of = ctypes.PYFUNCTYPE(ctypes.py_object, c_void_p, c_size_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)

NowCallback = CFUNCTYPE(c_size_t, c_size_t, c_size_t, POINTER(c_uint64))
LaterCallback = CFUNCTYPE(
    None,
    *(c_size_t, c_size_t, POINTER(c_uint64), c_size_t, POINTER(c_uint64), c_size_t),
    *(POINTER(c_size_t), POINTER(c_size_t)),
)
EpochCallback = CFUNCTYPE(c_size_t, c_size_t, c_size_t, POINTER(c_uint64), POINTER(c_uint8))
Continuation = CFUNCTYPE(c_bool, c_size_t)


def address(pointer: Any) -> c_void_p:
    """Where a pointer leads. A cast of it would hold itself, and be garbage that only the collector finds."""
    return c_void_p(c_void_p.from_buffer(pointer).value)


def raise_error(error: int | None) -> None:
    if error:
        raise wasmtime.WasmtimeError._from_ptr(ctypes.cast(c_void_p(error), POINTER(bindings.wasmtime_error_t)))
