"""Makes a module note that a growth of its memory was refused, since the C API has no callback for it.

What is changed, in a module that has a `memory.grow` at all
- Each `memory.grow` becomes a call of one appended function, which grows the memory and, where that gave -1, sets an
  appended global. The global is exported as `REFUSED`.
- For each exported function that an ABI can enter, an appended function is exported as `ENTER` and its name: it clears the
  global and calls the function. So "refused" means: since the last entry. The entry costs an instruction, and the host
  looks at the global only when a call has failed.

Everything that is appended is the last of its kind, so no index changes, and nothing but code moves. The reader is strict
and bounded: it takes valid modules alone (wasmtime has validated them before), knows the instructions of the features that
are on (see config.py), and raises `UnreadableError` at any other. Only bodies that hold the bytes of a `memory.grow` are
read by instructions, in long runs by one pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from insula.wasm.reader import (
    CODE,
    CUSTOM,
    EXPORT,
    FUNCTION,
    GLOBAL,
    ORDER,
    TYPE,
    Declared,
    Section,
    UnreadableError,
    count_of,
    number_at,
    past_type,
)

#: Goes into the fingerprint of compiled code: another number where anything here makes other code.
VERSION = 1

#: Names that begin so belong to the host; a module that exports one is refused.
RESERVED = "insula:"
REFUSED = RESERVED + "refused"
ENTER = RESERVED + "enter "

#: A longer name is entered by no ABI, in bytes.
_MAX_ENTERED = 256

#: The most places that are kept to find original offsets by; where there are more, no offset is told.
MAX_PLACES = 2000

_GROW = b"\x40\x00"
_I32, _I64 = 0x7F, 0x7E

_LEB = rb"[\x80-\xff]{0,9}+[\x00-\x7f]"
#: Instructions without a count in them: what is left out is looked at one by one.
_RUN = re.compile(
    rb"(?:"
    rb"[\x00\x01\x05\x0b\x0f\x1a\x1b\x45-\xc4\xd1]"  # no immediate
    rb"|[\x0c\x0d\x10\x12\x20-\x26\x3f\x41\x42\xd0\xd2]" + _LEB + rb"|[\x02-\x04](?:[\x63\x64])?+" + _LEB +
    # two: tables and types of indirect calls, alignment and offset
    rb"|[\x11\x13\x28-\x3e]" + _LEB + _LEB + rb"|\x43.{4}|\x44.{8}"
    rb"|\xfc(?:[\x00-\x07\x13-\x16]|[\x09\x0b\x0d\x0f-\x11]" + _LEB + rb"|[\x08\x0a\x0c\x0e]" + _LEB + _LEB + rb")"
    rb")*+",
    re.DOTALL,
)  # fmt: skip


class ReservedNameError(UnreadableError):
    """The module exports a name that belongs to the host."""


class Rewritten(NamedTuple):
    """A module that notes refused growth. From each offset of `rewritten` on, up to the next, it is the original from that
    of `original` on. `functions` is the number of functions of the original, `added` that of exports that it has more."""

    wasm: bytes
    rewritten: Sequence[int]
    original: Sequence[int]
    functions: int
    added: int


def rewrite(wasm: bytes, declared: Declared) -> Rewritten | None:
    """The module rewritten; None where nothing in it grows a memory. UnreadableError."""
    if any(export.name.startswith(RESERVED.encode()) for export in declared.exports):
        raise ReservedNameError
    try:
        return _rewrite(wasm, declared)
    except (IndexError, KeyError):
        raise UnreadableError("it ends too early, or names what is not there") from None


def _rewrite(wasm: bytes, declared: Declared) -> Rewritten | None:
    named, functions, types = declared.named, declared.functions, declared.types
    code = named.get(CODE)
    if code is None or wasm.find(_GROW, code.start, code.end) < 0:
        return None
    bodies = list(_bodies(wasm, code))
    sites = {
        number: found
        for number, (_, start, end) in enumerate(bodies)
        if wasm.find(_GROW, start, end) >= 0 and (found := _grows(wasm, start, end))
    }
    if not sites:
        return None
    flag = declared.imported_globals + count_of(wasm, named.get(GLOBAL))
    entries = [
        (export.name, export.number)
        for export in declared.exports
        if export.kind == 0
        and len(export.name) <= _MAX_ENTERED
        and not set(types[functions[export.number]][0]) - {_I32, _I64}
    ]
    grow = len(functions)
    grow_type = types.index((b"\x7f", b"\x7f")) if (b"\x7f", b"\x7f") in types else len(types)
    entered = {index: grow + 1 + n for n, index in enumerate(dict.fromkeys(index for _, index in entries))}
    added = {
        TYPE: [] if grow_type < len(types) else [b"\x60\x01\x7f\x01\x7f"],
        FUNCTION: [_leb(grow_type), *(_leb(functions[index]) for index in entered)],
        GLOBAL: [b"\x7f\x01\x41\x00\x0b"],
        EXPORT: [_export(REFUSED.encode(), 3, flag)]
        + [_export(ENTER.encode() + name, 0, entered[index]) for name, index in entries],
    }
    appended = [_grow_body(flag)] + [_enter_body(flag, index, len(types[functions[index]][0])) for index in entered]
    moved = _Code(wasm, code)
    moved.write(bodies, sites, b"\x10" + _leb(grow), appended)

    out = bytearray(wasm[:8])
    places: tuple[list[int], list[int]] = [], []
    for section in _in_order(declared.sections):
        if section.number == CODE:
            content = bytes(moved.content)
            out += bytes([CODE]) + _leb(len(content))
            places = [at + len(out) for at in moved.rewritten], moved.original
            out += content
        elif more := added.get(section.number):
            content = _longer(wasm, section, more)
            out += bytes([section.number]) + _leb(len(content)) + content
        elif not _is_about_code(wasm, section):
            out += wasm[section.begin : section.end]
    if len(places[0]) > MAX_PLACES:
        places = [len(out)], [0]
    return Rewritten(bytes(out), *places, len(functions), len(added[EXPORT]))


# What is made


class _Code:
    """The new content of the code section, and where each piece of it came from (`rewritten` counts within the content)."""

    def __init__(self, wasm: bytes, section: Section) -> None:
        self.content = bytearray()
        self.rewritten: list[int] = []
        self.original: list[int] = []
        self._wasm = wasm
        _, self._from = number_at(wasm, section.start)  # behind the count

    def write(
        self, bodies: list[tuple[int, int, int]], sites: dict[int, list[int]], call: bytes, appended: list[bytes]
    ) -> None:
        self.content += _leb(len(bodies) + len(appended))
        for number, grows in sites.items():
            begin, start, end = bodies[number]
            self._copy(begin)
            self.content += _leb(end - start + len(grows) * (len(call) - len(_GROW)))
            self._from = start
            for at in grows:
                self._copy(at)
                self._place(at)
                self.content += call
                self._from = at + len(_GROW)
            self._copy(end)
        self._copy(bodies[-1][2])
        for body in appended:
            self.content += _leb(len(body)) + body

    def _copy(self, end: int) -> None:
        self._place(self._from)
        self.content += self._wasm[self._from : end]
        self._from = end

    def _place(self, original: int) -> None:
        at = len(self.content)
        if not self.original or original - at != self.original[-1] - self.rewritten[-1]:
            if self.rewritten and self.rewritten[-1] == at:  # nothing came from the place before
                self.original[-1] = original
            else:
                self.rewritten.append(at)
                self.original.append(original)


def _grow_body(flag: int) -> bytes:
    """(param i32) (result i32): grows the memory, and sets the flag where that was refused."""
    return b"\x00\x20\x00\x40\x00\x22\x00\x41\x7f\x46\x04\x40\x41\x01\x24%b\x0b\x20\x00\x0b" % _leb(flag)


def _enter_body(flag: int, function: int, params: int) -> bytes:
    """Of the function's own type: clears the flag, and goes on as the function."""
    given = b"".join(b"\x20" + _leb(n) for n in range(params))
    return b"\x00\x41\x00\x24%b%b\x12%b\x0b" % (_leb(flag), given, _leb(function))


def _export(name: bytes, kind: int, index: int) -> bytes:
    return _leb(len(name)) + name + bytes([kind]) + _leb(index)


def _longer(wasm: bytes, section: Section, more: Sequence[bytes]) -> bytes:
    """The content of a section with some items more; one of no length is not there yet."""
    if section.start == section.end:
        return _leb(len(more)) + b"".join(more)
    count, start = number_at(wasm, section.start)
    return _leb(count + len(more)) + wasm[start : section.end] + b"".join(more)


def _in_order(sections: Sequence[Section]) -> Iterator[Section]:
    """The sections, with an empty one in its place for each that is to be and is not there."""
    missing = [number for number in (GLOBAL, EXPORT) if not any(number == section.number for section in sections)]
    for section in sections:
        while missing and section.number != CUSTOM and ORDER[section.number] > ORDER[missing[0]]:
            yield Section(missing.pop(0), 0, 0, 0)
        yield section


# What is read


def _is_about_code(wasm: bytes, section: Section) -> bool:
    """Whether it is a custom section that tells of instructions by their offsets."""
    if section.number != CUSTOM:
        return False
    size, at = number_at(wasm, section.start)
    return wasm[at : at + size].startswith(b"metadata.code.")


def _bodies(wasm: bytes, section: Section) -> Iterator[tuple[int, int, int]]:
    """The offsets of each body's size, of its beginning and of its end."""
    count, at = number_at(wasm, section.start)
    for _ in range(count):
        size, start = number_at(wasm, at)
        yield at, start, start + size
        at = start + size


def _grows(wasm: bytes, at: int, end: int) -> list[int]:
    """Where the `memory.grow` instructions of one body are."""
    found: list[int] = []
    count, at = number_at(wasm, at)
    for _ in range(count):  # the locals
        _, at = number_at(wasm, at)
        at = past_type(wasm, at)
    while True:
        match = _RUN.match(wasm, at, end)
        assert match is not None  # it matches nothing at all as well
        at = match.end()
        if at >= end:
            return found
        if wasm[at : at + 2] == _GROW:
            found.append(at)
            at += 2
        else:
            at = _past(wasm, at)


def _past(wasm: bytes, at: int) -> int:
    """Behind an instruction that the pattern leaves out."""
    operation = wasm[at]
    if operation == 0x0E:  # br_table
        count, at = number_at(wasm, at + 1)
        for _ in range(count + 1):
            _, at = number_at(wasm, at)
        return at
    if operation == 0x1C:  # select with types
        count, at = number_at(wasm, at + 1)
        for _ in range(count):
            at = past_type(wasm, at)
        return at
    if operation == 0xFC:  # in a longer form than need be
        number, at = number_at(wasm, at + 1)
        if number > 0x16 or number == 0x12:
            raise UnreadableError(f"instruction fc {number}")
        immediates = 0 if number < 8 or number > 0x11 else 2 if number in (8, 10, 12, 14) else 1
        for _ in range(immediates):
            _, at = number_at(wasm, at)
        return at
    if operation == 0xFD:
        return _past_vector(wasm, *number_at(wasm, at + 1))
    raise UnreadableError(f"instruction {operation:02x}")


def _past_vector(wasm: bytes, number: int, at: int) -> int:
    if number <= 11 or 84 <= number <= 93:  # loads and stores; those of a lane have its number behind
        for _ in range(2):
            _, at = number_at(wasm, at)
        return at + (84 <= number <= 91)
    if number in (12, 13):
        return at + 16
    if number > 0x113:
        raise UnreadableError(f"instruction fd {number}")
    return at + (21 <= number <= 34)


def _leb(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
