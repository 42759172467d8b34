"""C to WebAssembly, through Zig's C compiler.

The module is a reactor: no main, only the exports of the generated entry. The same source gives the same bytes in any
folder: the compiler runs inside the project, sees relative paths alone, and nothing of the user's include or library
paths reaches it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from insula.build.tools import BuildError, cache_folder, find_zig, run

#: The stack is far smaller than Zig's 16 MiB, which each instance of a service would have to reserve.
_FLAGS = (
    *("cc", "-target", "wasm32-wasi", "-mexec-model=reactor", "-std=gnu23", "-O2", "-s", "-Wl,-z,stack-size=1048576"),
    *("-Wall", "-Werror=return-type", "-Werror=implicit-function-declaration", "-Werror=int-conversion"),
    *("-Werror=incompatible-pointer-types", "-fno-sanitize=undefined", "-fdiagnostics-color=never", "-Igen", "-I."),
)
_IGNORED = ("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "CFLAGS", "LDFLAGS", "ZIG_LIB_DIR", "SOURCE_DATE_EPOCH")
_NOT_SOURCE = ("gen", "dist")


def compile_c(folder: Path, source: Path, progress: Callable[[str], None]) -> bytes:
    """The module of a project: `source` is a file or folder in it. BuildError with what the compiler said."""
    zig = find_zig()
    files = [*_sources(folder, source), *sorted((folder / "gen").glob("*.c"))]
    cache = cache_folder("zig")
    # Zig builds the C library once for each place that it is installed in
    built = cache / f"built-by-{hashlib.sha256(f'{zig.program} {zig.version}'.encode()).hexdigest()[:16]}"
    first = "" if built.exists() else "; the first time it builds its C library as well, which takes a minute or more"
    progress(f"compiling with Zig {zig.version}{first}")
    cache.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key not in _IGNORED}
    environment |= {"ZIG_GLOBAL_CACHE_DIR": str(cache / "global"), "ZIG_LOCAL_CACHE_DIR": str(cache / "local")}
    with tempfile.TemporaryDirectory(prefix="insula-build-") as scratch:
        target = Path(scratch) / "service.wasm"
        # `./` keeps a file whose name starts with a dash from being taken for an option.
        names = [f"./{file.relative_to(folder).as_posix()}" for file in files]
        code, said = run([zig.program, *_FLAGS, "-o", target, *names], folder=folder, environment=environment)
        said = said.replace("./", "") if code else said
        if code != 0 or not target.exists():
            raise BuildError(f"the C code does not compile:\n{said}", hint=_hint(said))
        built.touch()
        if said:
            progress(said)
        return target.read_bytes()


def _sources(folder: Path, source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    found = sorted(
        file
        for file in source.rglob("*.c")
        if not any(part in _NOT_SOURCE or part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not found:
        raise BuildError(f"there is no C file in {source.relative_to(folder)}", hint="the template has a service.c")
    return found


def _hint(said: str) -> str | None:
    if "undefined symbol" in said:
        return "the methods to write are declared at the end of gen/service.gen.h"
    return None
