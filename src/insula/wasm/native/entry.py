"""What it takes to enter an export, made once."""

from __future__ import annotations

from ctypes import byref
from typing import TYPE_CHECKING, Any

from insula.wasm.contract import Signature
from insula.wasm.native.values import COUNTS, MASKS, ROOM, filler, raw_filler

if TYPE_CHECKING:
    from insula.wasm.native.store import Store


class Entry:
    """An export that can be entered: `fill` and `fill_raw` write its arguments, and
    `whole` and `raw` are what `wasmtime_func_call_async` and `wasmtime_func_call_unchecked` are called with. `mask` is of
    its result; 0 where it has none, or more than one."""

    __slots__ = ("fill", "fill_raw", "function", "mask", "raw", "whole")

    def __init__(self, function: Any, signature: Signature, store: Store) -> None:
        self.function = function  # kept, since the two below have only its address
        pointer, context = byref(function), store._context
        count, results = len(signature.params), signature.results
        self.fill = filler(signature.params)
        self.fill_raw = raw_filler(count)
        self.mask = MASKS.get(results[0], 0) if len(results) == 1 else 0
        ends = store._trap, store._error
        self.whole = (
            context, pointer, store._arguments, COUNTS[count], store._results, COUNTS[len(results)], *ends,
        )  # fmt: skip
        self.raw = (context, pointer, store._raw, COUNTS[ROOM], store._trap)
