"""Go to WebAssembly, with the ordinary Go compiler.

The module is a reactor (`-buildmode=c-shared`): its init functions run once, main never does. The same source gives the
same bytes in any folder. No network is needed unless the author's go.mod asks for modules that are not there yet.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from insula.build.multivalue import link_host_import
from insula.build.tools import BuildError, find_go, run

#: How a module is built: the same bytes in any folder.
GO_FLAGS = ("-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=")
_IGNORED = ("GOEXPERIMENT", "GOWASM", "GOENV", "GODEBUG", "GOROOT")
_MODULE = re.compile(r'^\s*module\s+"?([A-Za-z0-9._~/-]+)"?\s*(?://.*)?$', re.MULTILINE)


def module_path(folder: Path) -> str:
    """The module's path in go.mod, which the generated code is imported by."""
    try:
        text = (folder / "go.mod").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BuildError(
            "there is no go.mod in this folder", hint=f"make it with: go mod init {folder.name.lower()}"
        ) from None
    except UnicodeDecodeError:
        raise BuildError("go.mod is not UTF-8") from None
    found = _MODULE.search(text)
    if found is None:
        raise BuildError("go.mod names no module", hint="its first line looks like: module counter")
    return found[1]


def compile_go(folder: Path, source: Path, progress: Callable[[str], None]) -> bytes:
    """The module of a project: `source` is the folder of its main package. BuildError with what the compiler said."""
    go = find_go()
    progress(f"compiling with Go {go.version}")
    package = source.parent if source.is_file() else source
    environment = {key: value for key, value in os.environ.items() if key not in _IGNORED}
    environment |= {
        "HOME": os.path.expanduser("~"),  # Go does not start where a service manager left it out
        "GOOS": "wasip1",
        "GOARCH": "wasm",
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod",
        "GOWORK": "off",
    }
    with tempfile.TemporaryDirectory(prefix="insula-build-") as scratch:
        target = Path(scratch) / "service.wasm"
        place = f"./{package.relative_to(folder).as_posix()}"
        command: list[str | Path] = [go.program, "build", *GO_FLAGS, "-o", target, place]
        code, said = run(command, folder=folder, environment=environment)
        if code != 0 or not target.exists():
            shown = "\n".join(line.removeprefix("./") for line in said.splitlines() if not line.startswith("# "))
            raise BuildError(f"the Go code does not compile:\n{shown}", hint=_hint(said))
        if said:
            progress(said)
        return link_host_import(target.read_bytes())


def _hint(said: str) -> str | None:
    if "missing method" in said:
        return "the methods to write are those of the interface at the top of gen/service.gen.go"
    if "function main is undeclared" in said:
        return "add `func main() {}`: it is never run, but Go wants it"
    return None
