"""How numbers are laid out for the C API: a value has 32 bytes, its kind in the first; a raw one has 16."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from ctypes import c_size_t
from typing import Any, TypeAlias

#: The longest parameter or result list of a function that is entered or imported.
ROOM = 16

KINDS = {"i32": 0, "i64": 1}
MASKS = {"i32": 0xFFFFFFFF, "i64": 0xFFFFFFFFFFFFFFFF}
COUNTS = tuple(c_size_t(n) for n in range(ROOM + 1))

#: Where each result of a host function goes, in steps of 8 bytes, and its kind.
Slots: TypeAlias = tuple[tuple[int, int], ...]

#: Out of a cell's buffer of results: trap, error, and the number of the first result.
outcome_of = struct.Struct("=QQ8xQ").unpack_from


def put(results: Any, slots: Slots, values: tuple[int, ...]) -> None:
    for (at, kind), value in zip(slots, values, strict=True):
        results[at] = kind
        results[at + 1] = value


def masks(kinds: Sequence[str]) -> tuple[tuple[int, int], ...]:
    if len(kinds) > ROOM or not KINDS.keys() >= set(kinds):
        raise ValueError(f"a host function takes and gives at most {ROOM} integers")
    return tuple((n, MASKS[kind]) for n, kind in enumerate(kinds))


@functools.cache
def filler(params: tuple[str, ...]) -> Callable[..., None]:
    """What lays arguments out as values of the C API: 32 bytes each, the kind in the first, the number in the second 8."""
    fill = struct.Struct("=" + "8xQ16x" * len(params)).pack_into
    others = [(4 * n, KINDS[kind]) for n, kind in enumerate(params) if KINDS[kind]]
    if not others:
        return fill

    def fill_and_tell(values: Any, at: int, *args: int) -> None:
        fill(values, at, *args)
        for n, kind in others:
            values[n] = kind

    return fill_and_tell


@functools.cache
def raw_filler(count: int) -> Callable[..., None]:
    """What lays arguments out raw: 16 bytes each."""
    return struct.Struct("=" + "Q8x" * count).pack_into
