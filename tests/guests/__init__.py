"""Guests for the tests, compiled from their sources when first asked for, and kept by what they were made of.

`build_c` and `build_go` give the path of the module; `wat` makes one of WebAssembly text. All of them may be called from
several test processes at once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import wasmtime

from insula.build.compile_go import GO_FLAGS
from insula.build.tools import cache_folder
from tests.toolchains import needs

SOURCES = Path(__file__).parent
BUILT = Path(os.environ.get("INSULA_TEST_GUESTS", Path(tempfile.gettempdir()) / f"insula-test-guests-{os.getuid()}"))


def build_c(source: Path | str, *flags: str) -> Path:
    """Compiles a C source (a path, or a name in this folder) as a reactor; `flags` go to the compiler."""
    source = SOURCES / source
    command = [str(needs("c").program), "cc", "-target", "wasm32-wasi", "-mexec-model=reactor", "-O2", "-s"]
    command += [*flags, str(source), "-o"]
    # the cache of `insula build`: on a new machine the C library is compiled once, and not for each of the two
    caches = {name: str(cache_folder("zig") / name) for name in ("global", "local")}
    environment = {f"ZIG_{name.upper()}_CACHE_DIR": folder for name, folder in caches.items()}
    return _build(source.stem, source.read_bytes(), command, environment)


def build_go(source: Path | str) -> Path:
    """Compiles a folder with a Go program (a path, or a name in this folder) as a reactor."""
    source = SOURCES / source
    # the flags of `insula build`, so that Go's own library is compiled once for both
    command = [str(needs("go").program), "build", "-C", str(source), *GO_FLAGS, "-o"]
    content = b"".join(path.read_bytes() for path in sorted(source.iterdir()))
    return _build(
        source.name,
        content,
        command,
        {"GOOS": "wasip1", "GOARCH": "wasm", "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"},
    )


def wat(text: str) -> Path:
    """Makes a module of WebAssembly text."""
    return save(bytes(wasmtime.wat2wasm(text)))


def save(wasm: bytes) -> Path:
    """Writes a module (or what is none) and gives its path."""
    BUILT.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = BUILT / f"{hashlib.sha256(wasm).hexdigest()[:32]}.wasm"
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_bytes(wasm)
        draft.replace(path)
    return path


def digest(path: Path) -> str:
    """The sha256 of a module, as `Engine.load` wants it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _build(name: str, content: bytes, command: list[str], environment: dict[str, str]) -> Path:
    BUILT.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = hashlib.sha256(content + repr(command[1:]).encode()).hexdigest()[:16]
    path = BUILT / f"{name}-{key}.wasm"
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}")
        # not here: Zig keeps another C library for a working directory that its own files are below
        done = subprocess.run(
            [*command, str(draft)], cwd=BUILT, env=os.environ | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        draft.replace(path)
    return path
