"""Host functions by the shape of their signature: texts and numbers in; a packed pointer, a number or nothing out.

A shape is two short texts, one letter for each parameter and at most one for the result
- `s`, a text, and `b`, bytes: as a parameter two i32, pointer and length. As a result `b` is a packed i64, pointer in the
  upper half and length in the lower, of memory that the guest's allocating export gave; 0, null, is Python's None.
- `i`, an i32, and `l`, an i64, both signed.

So `ssi -> b` is a function (i32, i32, i32, i32, i32) -> i64, and its Python side is called with the scope, two texts and an
integer, and answers bytes or None. What is no UTF-8, or not in the guest's memory, ends the guest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import NoneType
from typing import Any

from insula.abi.memory import no_room
from insula.errors import GuestError
from insula.wasm.contract import Guest, HostImport, Signature

#: The longest text or bytes of one parameter.
MAX_TEXT = 1 << 20

_PARAMS = {"s": ("i32", "i32"), "b": ("i32", "i32"), "i": ("i32",), "l": ("i64",)}
_RESULTS = {"": (), "b": ("i64",), "i": ("i32",), "l": ("i64",)}
_MASKS = {"i": 0xFFFFFFFF, "l": 0xFFFFFFFFFFFFFFFF}
_ANSWERS: dict[str, tuple[type, ...]] = {"": (NoneType,), "b": (bytes, NoneType), "i": (int,), "l": (int,)}


def host_import(
    module: str,
    name: str,
    params: str,
    result: str,
    function: Callable[..., Any | Awaitable[Any]],
    *,
    allocate: str = "alloc",
    max_text: int = MAX_TEXT,
) -> HostImport:
    """The import of a function with this shape. `allocate` is the guest's export that makes room for a result, `max_text`
    the most bytes of one parameter: LimitError ends a guest that passes more."""

    def take(guest: Guest, args: tuple[int, ...]) -> tuple[Any, ...]:
        taken: list[Any] = []
        at = 0
        for kind in params:
            if kind in "sb":
                data = guest.read(args[at], args[at + 1], max_text)
                taken.append(data if kind == "b" else _text(data, module, name))
                at += 2
            else:
                taken.append(_signed(args[at], 32 if kind == "i" else 64))
                at += 1
        return tuple(taken)

    def give(guest: Guest, answer: Any) -> tuple[int, ...]:
        if not result:
            return ()
        if result != "b":
            return (int(answer) & _MASKS[result],)
        if answer is None:
            return (0,)
        return _packed(guest.put_in(allocate, answer) or no_room(guest, allocate, len(answer)), answer)

    def give_at(guest: Guest, answer: bytes, pointer: int) -> tuple[int, ...]:
        if not pointer:
            no_room(guest, allocate, len(answer))
        guest.write(pointer, answer)
        return _packed(pointer, answer)

    return HostImport(
        module,
        name,
        Signature(tuple(kind for letter in params for kind in _PARAMS[letter]), _RESULTS[result]),
        take,
        lambda scope, request: function(scope, *request),
        give,
        (allocate, give_at) if result == "b" else None,
        _ANSWERS[result],
    )


def _text(data: bytes, module: str, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise GuestError(f"the guest calls {module}.{name} with a text that is not UTF-8") from None


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _packed(pointer: int, data: bytes) -> tuple[int, ...]:
    return ((pointer << 32) | len(data),)
