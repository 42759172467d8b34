"""The child process that compiles one module: `python -I -m insula.wasm.compile`, started by compiler.py alone.

A module is a stranger's, and a compiler is a large program: whatever a module does to it happens here, in a process that
has no secrets, no sockets and no open files of the server's, and hard limits on memory, time and what it may write. The
server itself never parses a module that this has not compiled.

The module is validated as it is, and then made to note refused growth of its memory (rewrite.py).

Arguments: the module, its sha256, where to write the code, the memory limit (bytes), the time limit (s of CPU). The code
is written and synced; what is known of it (facts.py) follows on stdout. Exit code 0, or `REFUSED` with one plain sentence
on stderr. It ends by itself when stdin closes, so that no compilation outlives the server that wants it.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import threading
from pathlib import Path
from typing import NoReturn

from insula.wasm.facts import Facts, Places, Types
from insula.wasm.reader import NUMBERS, Declared, UnreadableError
from insula.wasm.rewrite import RESERVED, ReservedNameError, rewrite

#: Exit code for a module that is not one, or one that asks for what is not there.
REFUSED = 65

#: More exports or imports than any compiler makes; each costs the server something at every look.
MAX_EXPORTS = 10_000
MAX_IMPORTS = 1_000

#: Parameters and results of all exported functions that have a value that is no number.
MAX_VECTORS = 1_000

_MAGIC = b"\0asm"
_CORE_VERSION = b"\x01\0\0\0"
_MAX_CODE = 1 << 30
_MAX_QUOTED = 4000
_CLASH = f"the module exports a name that begins with {RESERVED!r}; such names are the server's own"


def main() -> None:
    source, digest, target, memory, seconds = sys.argv[1:6]
    _limit(int(memory), int(seconds))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    wasm = Path(source).read_bytes()
    if hashlib.sha256(wasm).hexdigest() != digest:
        _refuse("the file is not the one that was announced: its sha256 differs")
    if wasm[:4] != _MAGIC:
        _refuse("the file is not WebAssembly: it does not begin with the bytes 00 61 73 6d")
    if wasm[4:8] != _CORE_VERSION:
        _refuse("the file is not a WebAssembly core module of version 1 (a component, perhaps)")
    code, places, vectors = _compile(wasm)
    with open(target, "xb") as file:
        file.write(code)
        file.flush()
        os.fsync(file.fileno())
    sys.stdout.write(Facts(hashlib.sha256(code).hexdigest(), places, vectors).text())


def _compile(wasm: bytes) -> tuple[bytearray, Places, Types]:
    import wasmtime

    from insula.wasm.config import make_config

    engine = wasmtime.Engine(make_config())
    try:
        wasmtime.Module.validate(engine, wasm)
    except wasmtime.WasmtimeError as error:
        _refuse(f"the file is no valid WebAssembly module: {_plain(str(error))}")
    try:
        declared = Declared(wasm)
        vectors = _vectors(declared)
        rewritten = rewrite(wasm, declared)
        module = wasmtime.Module(engine, wasm if rewritten is None else rewritten.wasm)
    except ReservedNameError:
        _refuse(_CLASH)
    except UnreadableError as error:
        _refuse(f"the module has what is not supported here: {error}")
    except wasmtime.WasmtimeError as error:
        _refuse(f"the module cannot be compiled: {_plain(str(error))}")
    for kind, found, most in (
        ("exports", len(declared.exports), MAX_EXPORTS),
        ("imports", len(module.imports), MAX_IMPORTS),
    ):
        if found > most:
            _refuse(f"the module has {found} {kind}; at most {most} are taken")
    places = Places() if rewritten is None else Places(*rewritten[1:4])
    return module.serialize(), places, vectors


def _vectors(declared: Declared) -> Types:
    """The types of exported functions with vectors or references, by export. A module that imports such a function is
    refused, since the host offers none."""
    if any(set(declared.types[kind][0] + declared.types[kind][1]) - NUMBERS for kind in declared.imported):
        _refuse("the module imports a function of vectors or references, and none of those here is")
    found = {}
    for at, export in enumerate(declared.exports):
        if export.kind == 0:
            params, results = declared.types[declared.functions[export.number]]
            if set(params + results) - NUMBERS:
                found[at] = declared.signature(export.number)
    if sum(len(params) + len(results) for params, results in found.values()) > MAX_VECTORS:
        _refuse("the module exports too many functions of vectors or references")
    return found


def _plain(text: str) -> str:
    """What is wrong out of wasmtime's message, without its headings, on one line. It may quote the module."""
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in text[:_MAX_QUOTED])
    lines = [line.strip() for line in text.splitlines()]
    causes = [
        line.split(": ", 1)[-1] if line[:1].isdigit() else line for line in lines if line and line != "Caused by:"
    ]
    return "; ".join(causes[1:] or causes)[:400]


def _limit(memory: int, seconds: int) -> None:
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _MAX_CODE),
        (resource.RLIMIT_NOFILE, 64),
    ):
        _, hard = resource.getrlimit(kind)
        # The softer limit on CPU time comes first, with a signal that says what it was.
        most = value + 1 if kind == resource.RLIMIT_CPU else value
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        try:
            resource.setrlimit(kind, (min(value, most), most))
        except (OSError, ValueError):
            # macOS refuses a limit on address space; there the other limits and the clock of the parent hold.
            if sys.platform == "linux":
                raise


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(reason)
    sys.stderr.flush()
    os._exit(REFUSED)


if __name__ == "__main__":
    main()
