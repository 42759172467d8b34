"""The step after linking that gives a Go guest the host's own `run_host_api`.

okra.run_host_api returns two numbers, and an import that Go can declare returns at most one. A Go guest therefore
imports `insula_shim.run_host_api (request, length, answer)`, which exists nowhere, and this step puts the real thing in
its place, since the package has to run on every okra host:

- the import becomes `okra.run_host_api (i32, i32) -> (i32, i32)`, in the same place, so that no index moves;
- an adapter is added behind the last function: it calls the import and stores the two results at `answer`;
- each `call` of the import becomes a call of the adapter.

The last needs every instruction of the functions concerned to be known; one that is not ends the build, as a byte that
only looks like a call must not be changed. Go calls the import in one wrapper function, so few bodies are ever decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from insula.errors import InsulaError

SHIM = ("insula_shim", "run_host_api")
REAL = ("okra", "run_host_api")

_TYPE, _IMPORT, _FUNCTION, _CODE = 1, 2, 3, 10
_SHIM_TYPE = b"\x60\x03\x7f\x7f\x7f\x00"  # (i32, i32, i32) -> ()
_REAL_TYPE = b"\x60\x02\x7f\x7f\x02\x7f\x7f"  # (i32, i32) -> (i32, i32)


def link_host_import(wasm: bytes) -> bytes:
    """The module with the real import; the same bytes where it does not use the host."""
    bodies = {kind: body for kind, body in _sections(wasm) if kind}
    shim = _find_shim(bodies.get(_IMPORT, b"\x00"))
    if shim is None:
        return wasm
    defined, _ = _leb(bodies[_FUNCTION], 0)
    real_type, _ = _leb(bodies[_TYPE], 0)
    imports = bodies[_IMPORT]
    real_import = _name(REAL[0]) + _name(REAL[1]) + b"\x00" + _encode(real_type)
    changed = {
        # Two types more: the adapter is given one of its own, which is simpler than to look for the shim's.
        _TYPE: _appended(bodies[_TYPE], 2, _REAL_TYPE + _SHIM_TYPE),
        _IMPORT: imports[: shim.start] + real_import + imports[shim.end :],
        _FUNCTION: _appended(bodies[_FUNCTION], 1, _encode(real_type + 1)),
        _CODE: _appended(_retarget(bodies[_CODE], shim.function, shim.imported + defined), 1, _adapter(shim.function)),
    }
    return wasm[:8] + b"".join(_section(kind, changed.get(kind, body)) for kind, body in _sections(wasm))


def _adapter(index: int) -> bytes:
    """The body of the adapter (request, length, answer): no locals of its own."""
    code = b"\x00" + b"".join(
        (
            b"\x20\x00\x20\x01\x10" + _encode(index),  # call the import with request and length
            b"\x21\x01\x21\x00",  # its length into local 1, its pointer into local 0
            b"\x20\x02\x20\x00\x36\x02\x00",  # i32.store answer, pointer
            b"\x20\x02\x20\x01\x36\x02\x04",  # i32.store answer + 4, length
            b"\x0b",
        )
    )
    return _encode(len(code)) + code


class _Shim(NamedTuple):
    """The shim's import: its place in the section, its number, and how many functions are imported in all."""

    start: int
    end: int
    function: int
    imported: int


def _find_shim(section: bytes) -> _Shim | None:
    found: tuple[int, int, int] | None = None
    count, at = _leb(section, 0)
    functions = 0
    for _ in range(count):
        start = at
        module, at = _read_name(section, at)
        name, at = _read_name(section, at)
        if section[at] != 0:
            raise _unknown("the module imports something that is not a function")
        _, at = _leb(section, at + 1)
        if (module, name) == SHIM:
            found = (start, at, functions)
        functions += 1
    return _Shim(*found, functions) if found else None


def _retarget(section: bytes, index: int, target: int) -> bytes:
    """The code section with each `call index` made a `call target`."""
    # An index may be written longer than it need be: all seven-bit groups, then any number of empty ones.
    groups = [index >> shift & 0x7F for shift in range(0, max(index.bit_length(), 1), 7)]
    spelled = b"".join(b"[%s%s]" % (_escaped(group), _escaped(group | 0x80)) for group in groups)
    looks_like_a_call = re.compile(b"\x10" + spelled, re.DOTALL)

    count, at = _leb(section, 0)
    out = [_encode(count)]
    for _ in range(count):
        size, start = _leb(section, at)
        body = section[start : start + size]
        if looks_like_a_call.search(body):
            body = _with_calls(body, index, target)
        out += [_encode(len(body)), body]
        at = start + size
    return b"".join(out)


def _escaped(byte: int) -> bytes:
    return b"\\x%02x" % byte


def _with_calls(body: bytes, index: int, target: int) -> bytes:
    out = bytearray()
    copied = 0
    for at, end, called in _calls(body):
        if called == index:
            out += body[copied:at] + b"\x10" + _encode(target)
            copied = end
    return bytes(out + body[copied:])


def _calls(body: bytes) -> Iterator[tuple[int, int, int]]:
    """Each `call` of a function body: where it starts, where it ends, and the function."""
    groups, at = _leb(body, 0)
    for _ in range(groups):
        _, at = _leb(body, at)
        at += 1
    while at < len(body):
        start, opcode = at, body[at]
        at = _skip_immediates(body, at + 1, opcode)
        if opcode == 0x10:
            yield start, at, _leb(body, start + 1)[0]


#: How many LEB128 numbers follow an opcode; -1: it is one of the cases of `_skip_immediates`.
_IMMEDIATES: dict[int, int] = {
    **dict.fromkeys((0x00, 0x01, 0x05, 0x0B, 0x0F, 0x1A, 0x1B, 0xD1, *range(0x45, 0xC5)), 0),
    **dict.fromkeys((0x02, 0x03, 0x04, 0x0C, 0x0D, 0x10, *range(0x20, 0x27), 0x3F, 0x40, 0x41, 0x42, 0xD0), 1),
    **dict.fromkeys((0x11, *range(0x28, 0x3F)), 2),
}
#: The same for the opcodes behind 0xFC: conversions, bulk memory, tables.
_PREFIXED: dict[int, int] = {
    **dict.fromkeys(range(8), 0),
    **dict.fromkeys((9, 11, 13, 15, 16, 17), 1),
    **dict.fromkeys((8, 10, 12, 14), 2),
}


def _skip_immediates(body: bytes, at: int, opcode: int) -> int:
    """Where the next instruction starts."""
    if opcode in _IMMEDIATES:
        numbers = _IMMEDIATES[opcode]
    elif opcode in (0x43, 0x44):  # f32.const, f64.const
        return at + (4 if opcode == 0x43 else 8)
    elif opcode == 0x0E:  # br_table: a list of labels and one more
        numbers, at = _leb(body, at)
        numbers += 1
    elif opcode == 0x1C:  # select with a list of types
        numbers, at = _leb(body, at)
    elif opcode == 0xFC:
        prefixed, at = _leb(body, at)
        if prefixed not in _PREFIXED:
            raise _unknown(f"the compiler wrote the instruction 0xFC {prefixed}")
        numbers = _PREFIXED[prefixed]
    else:
        raise _unknown(f"the compiler wrote the instruction 0x{opcode:02X}")
    for _ in range(numbers):
        while body[at] & 0x80:
            at += 1
        at += 1
    return at


def _unknown(what: str) -> InsulaError:
    return InsulaError(
        f"the compiled module cannot be linked to the host: {what}, which this version of insula does not know",
        hint="use a version of Go that insula build is tested with, such as the one of `pip install 'insula[build]'`",
    )


# The binary format: sections, names, LEB128.


def _sections(wasm: bytes) -> Iterator[tuple[int, bytes]]:
    at = 8
    while at < len(wasm):
        kind = wasm[at]
        size, start = _leb(wasm, at + 1)
        yield kind, wasm[start : start + size]
        at = start + size


def _section(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _encode(len(body)) + body


def _appended(section: bytes, more: int, entries: bytes) -> bytes:
    count, at = _leb(section, 0)
    return _encode(count + more) + section[at:] + entries


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    size, start = _leb(data, at)
    return data[start : start + size].decode("utf-8"), start + size


def _name(text: str) -> bytes:
    return _encode(len(text)) + text.encode("ascii")


def _leb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
