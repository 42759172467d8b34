"""A project folder -> its package: schema read, stubs generated, guest compiled, `dist/NAME-VERSION.okra.pkg` written.

The folder holds okra.json, the schema, and the author's source; `gen/` is written anew by every build and belongs to it.
A folder of that name that somebody else made is never touched. The same source, compiler and zlib give the same bytes.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from insula.build import codegen_c, codegen_go
from insula.build.compile_c import compile_c
from insula.build.compile_go import compile_go, module_path
from insula.build.tools import BuildError
from insula.packages.config import read_config
from insula.packages.package import PackageConfig
from insula.packages.writer import write_package
from insula.schema.idl import MAX_IDL_BYTES, parse_idl
from insula.schema.model import Schema

CONFIG = "okra.json"
IDL = "service.okra.gql"
GENERATED = "gen"
_MARK = ".made-by-insula-build"
_MAX_CONFIG_BYTES = 1 << 20
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TEMPLATES = Path(__file__).parent / "templates"

_COMPILERS: Mapping[str, Callable[[Path, Path, Callable[[str], None]], bytes]] = {"c": compile_c, "go": compile_go}


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build wrote. `digest` is the sha256 of the package in hex; sizes are in bytes."""

    path: Path
    service_id: str
    digest: str
    size: int
    wasm_size: int
    seconds: float


def build(folder: Path, *, progress: Callable[[str], None] = lambda line: None) -> BuildResult:
    """Builds the project in `folder`. `progress` gets a line for each step. Blocking, for as long as a compiler takes.

    BuildError or PackageError where the project is at fault (the schema's errors name line and column),
    ConfigurationError where a compiler is missing.
    """
    started = time.monotonic()
    if not folder.is_dir():
        raise BuildError(f"there is no folder {folder}", hint=f"insula new {folder.name} --lang c makes one")
    folder = folder.resolve()
    config = _config(folder)
    idl, schema = _schema(folder, config)
    service = schema.service
    if config.name != service.name:
        raise BuildError(
            f"{CONFIG} calls this {config.name!r}, the schema calls the service {service.name!r}",
            hint=f'they have to agree: write "name": "{service.name}" in {CONFIG}',
        )
    count = len(service.methods)
    progress(f"read {service.name} {config.version}: {count} method{'' if count == 1 else 's'}")
    if "okra.env" in config.host_apis and not config.grants.get("okra.env", {}).get("keys"):
        progress(
            f"{CONFIG} asks for okra.env and for no key of it, so it reads none: "
            'add "grants": {"okra.env": {"keys": ["REGION"]}}'
        )

    source = _inside(folder, config.source or ".", "source")
    generate(folder, config.language, schema)
    wasm = _COMPILERS[config.language](folder, source, progress)

    target = folder / "dist" / f"{config.name}-{config.version}.okra.pkg"
    progress(f"packing {target.relative_to(folder)}")
    target.parent.mkdir(exist_ok=True)
    digest = write_package(
        target, config=config, schema=schema, wasm=wasm, idl=idl, migrations=_migrations(folder / "migrations")
    )
    return BuildResult(
        path=target,
        service_id=f"{schema.namespace}.{service.name}.{schema.version}",
        digest=digest,
        size=target.stat().st_size,
        wasm_size=len(wasm),
        seconds=time.monotonic() - started,
    )


def generate(folder: Path, language: str, schema: Schema) -> None:
    """Writes `gen/`: the runtime of the language and the code of the schema."""
    runtime = {path.name: path.read_text("utf-8") for path in (_TEMPLATES / language / "runtime").iterdir()}
    if language == "c":
        files = {**runtime, **codegen_c.generate(schema)}
    else:
        files = {f"insula/{name}": text for name, text in runtime.items()}
        files |= codegen_go.generate(schema, module_path(folder))
    target = folder / GENERATED
    if target.is_symlink() or (target.exists() and not (target / _MARK).is_file()):
        raise BuildError(
            f"there is a {GENERATED} here that insula build did not make",
            hint="generated code goes there: move it, or give it another name",
        )
    if target.exists():
        shutil.rmtree(target)
    target.mkdir()
    (target / _MARK).touch()
    for name, text in sorted(files.items()):
        file = target / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")


def _config(folder: Path) -> PackageConfig:
    config = read_config(_read(folder / CONFIG, _MAX_CONFIG_BYTES, "insula new NAME --lang c makes a project"))
    if config.language not in _COMPILERS:
        said = f"the language {config.language!r}" if config.language else "no language"
        raise BuildError(f"{CONFIG} has {said}", hint='"language" is "c" or "go"')
    if not _FILE_NAME.fullmatch(config.name):
        raise BuildError(f"{CONFIG}: {config.name!r} is not the name of a service", hint="letters and digits alone")
    return config


def _schema(folder: Path, config: PackageConfig) -> tuple[str, Schema]:
    name = config.schema or IDL
    data = _read(
        _inside(folder, name, "schema"), MAX_IDL_BYTES, f'it holds the schema; {CONFIG} may name another "schema"'
    )
    try:
        idl = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BuildError(f"{name}:{line}: this is not UTF-8", hint="save the file as UTF-8") from None
    return idl, parse_idl(idl, name)


def _read(file: Path, most: int, hint: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            data = opened.read(most + 1)
    except FileNotFoundError:
        raise BuildError(f"there is no {file.name} in this folder", hint=hint) from None
    except (IsADirectoryError, PermissionError, NotADirectoryError):
        raise BuildError(f"{file.name} cannot be read") from None
    if len(data) > most:
        raise BuildError(f"{file.name} is larger than {most >> 10} KiB")
    return data


def _inside(folder: Path, written: str, key: str) -> Path:
    """A path of okra.json; it may not lead out of the project."""
    path = (folder / written).resolve()
    if not path.is_relative_to(folder):
        raise BuildError(f"{CONFIG}: {key} {written!r} leads out of the project", hint="name something inside it")
    if not path.exists():
        raise BuildError(f"{CONFIG}: {key} names {written!r}, and there is no such file or folder")
    return path


def _migrations(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.sql"))} if folder.is_dir() else {}
