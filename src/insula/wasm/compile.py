"""The child process that compiles one module: `python -I -m insula.wasm.compile`, started by compiler.py alone.

A module is a stranger's, and a compiler is a large program: whatever a module does to it happens here, in a process that
has no secrets, no sockets and no open files of the server's, and hard limits on memory, time and what it may write. The
server itself never parses a module that this has not compiled.

Arguments: the module, its sha256, where to write the code, the memory limit (bytes), the time limit (s of CPU). The code
is written and synced; its sha256 follows on stdout. Exit code 0, or `REFUSED` with one plain sentence on stderr. It ends
by itself when stdin closes, so that no compilation outlives the server that wants it.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import threading
from pathlib import Path
from typing import NoReturn

#: Exit code for a module that is not one, or one that asks for what is not there.
REFUSED = 65

#: More exports or imports than any compiler makes; each costs the server something at every look.
MAX_EXPORTS = 10_000
MAX_IMPORTS = 1_000

_MAGIC = b"\0asm"
_CORE_VERSION = b"\x01\0\0\0"
_MAX_CODE = 1 << 30


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
    code = _compile(wasm)
    with open(target, "xb") as file:
        file.write(code)
        file.flush()
        os.fsync(file.fileno())
    sys.stdout.write(hashlib.sha256(code).hexdigest())


def _compile(wasm: bytes) -> bytearray:
    import wasmtime

    from insula.wasm.config import make_config

    try:
        module = wasmtime.Module(wasmtime.Engine(make_config()), wasm)
    except wasmtime.WasmtimeError as error:
        _refuse(f"the file is no valid WebAssembly module: {_plain(str(error))}")
    for kind, found, most in (("exports", module.exports, MAX_EXPORTS), ("imports", module.imports, MAX_IMPORTS)):
        if len(found) > most:
            _refuse(f"the module has {len(found)} {kind}; at most {most} are taken")
    return module.serialize()


def _plain(text: str) -> str:
    """What is wrong out of wasmtime's message, without its headings, on one line."""
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
