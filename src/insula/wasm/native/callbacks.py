"""What wasmtime calls: host functions, the end of a slice of time, and whether a guest that waits can go on.

No exception leaves a callback: each catches all of them, keeps the first (`Cell.failure`) and traps the guest.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_void_p
from typing import TYPE_CHECKING, Any

from insula.errors import GuestError
from insula.wasm.contract import Signature
from insula.wasm.native.library import (
    Continuation,
    EpochCallback,
    LaterCallback,
    NowCallback,
    context_of,
    new_error,
    new_trap,
)
from insula.wasm.native.values import KINDS, masks, put

if TYPE_CHECKING:
    from insula.wasm.native.cell import Cell

_CONTINUE, _YIELD = 0, 1

#: Every live cell by the address of its store's context, which is what callbacks are given.
cells: dict[int, Cell] = {}


def stop(cell: Cell | None, error: BaseException) -> int:
    """Keeps the first error of a cell, and gives a trap to stop the guest with."""
    if cell is not None and cell.failure is None:
        cell.failure = error
    return new_trap(b"stopped by the host", 19) or 0


def _on_epoch(context: int, _data: int, delta: Any, kind: Any) -> int:
    cell = None
    try:
        cell = cells[context]
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
        return new_error(b"stopped by the host") or 0


def _is_ready(_context: int) -> bool:
    return True


def _is_answered(context: int) -> bool:
    cell = cells[context]
    if cell.rests:  # asked at once, in the poll in which it began to wait: its slice is over
        cell.rests = False
        return False
    return (cell.outcome is not None or cell.placing) and cell.deliver()


#: Kept for ever: wasmtime has their addresses.
epoch_callback, _ready_callback, _answered_callback = (
    EpochCallback(_on_epoch),
    Continuation(_is_ready),
    Continuation(_is_answered),
)
_READY = ctypes.cast(_ready_callback, c_void_p).value or 0
_ANSWERED = ctypes.cast(_answered_callback, c_void_p).value or 0


def now(signature: Signature, handler: Callable[[Any, tuple[int, ...]], tuple[int, ...]]) -> Any:
    """A callback that answers at once: `handler` gets the cell and the unsigned arguments, and gives the results."""
    params, results = masks(signature.params), masks(signature.results)

    def callback(_env: int, caller: int, values: Any) -> int:
        cell = None
        try:
            cell = cells[context_of(caller)]
            if cell.lost:
                cell.find_memory(caller)
            answer = handler(cell, tuple([values[2 * n] & mask for n, mask in params]))
            for n, mask in results:
                values[2 * n] = answer[n] & mask
            return 0
        except BaseException as error:
            return stop(cell, error)

    return NowCallback(callback)


def later(
    signature: Signature, handler: Callable[[Any, tuple[int, ...]], tuple[int, ...] | None], *, name: str = ""
) -> Any:
    """A callback that may wait: where `handler` gives None, `Cell.answered` is asked at each poll. One with a `name` is
    refused to the module's start function, which runs before there are exports."""
    params = tuple((4 * n + 1, mask) for n, mask in masks(signature.params))
    slots = tuple((4 * n, KINDS[kind]) for n, kind in enumerate(signature.results))
    two = [at for at, _ in params] == [1, 5]
    first, second = (mask for _, mask in params) if two else (0, 0)

    def callback(
        _env: int, caller: int, values: Any, _count: int, results: Any, _room: int, trap: Any, continuation: Any
    ) -> None:
        continuation[0] = _READY  # before anything can fail: an empty one is called all the same
        cell = None
        try:
            context = context_of(caller)
            cell = cells[context]
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
                put(results, slots, answer)
        except BaseException as error:
            trap[0] = stop(cell, error)

    return LaterCallback(callback)
