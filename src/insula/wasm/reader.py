"""A strict reader of what a module declares, for the child that compiles: sections, types, imports, exports.

It takes valid modules alone (wasmtime has validated them before) and raises `UnreadableError` at what it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

TYPE, IMPORT, FUNCTION, GLOBAL, EXPORT, CODE, CUSTOM = 1, 2, 3, 6, 7, 10, 0

#: Where each section stands among the others: tags have a number out of order.
ORDER = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 13: 6, 6: 7, 7: 8, 8: 9, 9: 10, 12: 11, 10: 12, 11: 13}

#: The names of value types, as wasmtime has them too.
NAMES = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128", 0x70: "funcref", 0x6F: "externref"}

#: Those that are numbers.
NUMBERS = frozenset((0x7F, 0x7E, 0x7D, 0x7C))

_LONG_REFERENCES = b"\x63\x64"


class UnreadableError(Exception):
    """The module has something that this reader does not know."""


class Section(NamedTuple):
    """One section: where its header, its content and what follows begin."""

    number: int
    begin: int
    start: int
    end: int


class Exported(NamedTuple):
    """One export: its name, its kind (0 is a function) and its number among those."""

    name: bytes
    kind: int
    number: int


class Declared:
    """What the sections before the code say. `types` are the bytes of parameters and results; `functions` the type of each
    function, imported ones first."""

    def __init__(self, wasm: bytes) -> None:
        try:
            self.sections = list(_sections(wasm))
            self.named = {section.number: section for section in self.sections if section.number != CUSTOM}
            self.types = _types(wasm, self.named.get(TYPE))
            self.imported, self.imported_globals = _imported(wasm, self.named.get(IMPORT))
            self.functions = self.imported + _indices(wasm, self.named.get(FUNCTION))
            self.exports = _exports(wasm, self.named.get(EXPORT))
        except IndexError:
            raise UnreadableError("it ends too early") from None

    def signature(self, function: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of a function's parameters and results."""
        params, results = self.types[self.functions[function]]
        return value_names(params), value_names(results)


def value_names(types: bytes) -> tuple[str, ...]:
    """The names of some value types; a reference in the long form is `ref`."""
    found = []
    at = 0
    while at < len(types):
        found.append(NAMES.get(types[at], "ref"))
        at = past_type(types, at)
    return tuple(found)


def _sections(wasm: bytes) -> Iterator[Section]:
    at = 8
    while at < len(wasm):
        kind = wasm[at]
        size, start = number_at(wasm, at + 1)
        if (kind != CUSTOM and kind not in ORDER) or start + size > len(wasm):
            raise UnreadableError(f"section {kind} is unknown, or cut off")
        yield Section(kind, at, start, start + size)
        at = start + size


def _types(wasm: bytes, section: Section | None) -> list[tuple[bytes, bytes]]:
    """Parameters and results of each type."""
    types = []
    count, at = number_at(wasm, section.start) if section is not None else (0, 0)
    for _ in range(count):
        if wasm[at] != 0x60:
            raise UnreadableError(f"a type of the form {wasm[at]:02x}")
        two = []
        at += 1
        for _ in range(2):
            length, start = number_at(wasm, at)
            at = start
            for _ in range(length):
                at = past_type(wasm, at)
            two.append(wasm[start:at])
        types.append((two[0], two[1]))
    return types


def _imported(wasm: bytes, section: Section | None) -> tuple[list[int], int]:
    """The types of imported functions, and the number of imported globals."""
    functions, others = [], 0
    count, at = number_at(wasm, section.start) if section is not None else (0, 0)
    for _ in range(count):
        for _ in range(2):
            length, at = number_at(wasm, at)
            at += length
        kind, at = wasm[at], at + 1
        if kind == 0:
            index, at = number_at(wasm, at)
            functions.append(index)
        elif kind == 1:
            at = _past_limits(wasm, past_type(wasm, at))
        elif kind == 2:
            at = _past_limits(wasm, at)
        elif kind == 3:
            at = past_type(wasm, at) + 1
            others += 1
        else:
            raise UnreadableError(f"an import of kind {kind}")
    return functions, others


def _past_limits(wasm: bytes, at: int) -> int:
    flags, at = wasm[at], at + 1
    for _ in range(1 + (flags & 1) + (flags >> 3 & 1)):
        _, at = number_at(wasm, at)
    return at


def past_type(wasm: bytes, at: int) -> int:
    """Behind a value type."""
    return number_at(wasm, at + 1)[1] if wasm[at] in _LONG_REFERENCES else at + 1


def number_at(wasm: bytes, at: int) -> tuple[int, int]:
    """A number in LEB128, and where it ends."""
    value = wasm[at]
    at += 1
    if value < 0x80:
        return value, at
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = wasm[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise UnreadableError("a number of more than ten bytes")


def count_of(wasm: bytes, section: Section | None) -> int:
    return 0 if section is None else number_at(wasm, section.start)[0]


def _indices(wasm: bytes, section: Section | None) -> list[int]:
    found = []
    count, at = number_at(wasm, section.start) if section is not None else (0, 0)
    for _ in range(count):
        index, at = number_at(wasm, at)
        found.append(index)
    return found


def _exports(wasm: bytes, section: Section | None) -> list[Exported]:
    found = []
    count, at = number_at(wasm, section.start) if section is not None else (0, 0)
    for _ in range(count):
        length, at = number_at(wasm, at)
        name = wasm[at : at + length]
        at += length
        kind = wasm[at]
        index, at = number_at(wasm, at + 1)
        found.append(Exported(name, kind, index))
    return found
