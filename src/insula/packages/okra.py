"""Reads an `.okra.pkg`: what is in it, whether it is whole, and whether its parts agree.

A package is read once, when it is deployed or inspected; everything that a newcomer can get wrong is found here and has
a message of its own. A package has one service, so its id is never in doubt and okra.json may carry the name of the
service or of the project. Whether the module exports what the ABI needs is for the ABI to say, once it is compiled.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec

from insula.errors import PackageError
from insula.packages.agreement import difference
from insula.packages.archive import Extracted, extract
from insula.packages.config import check_depth, read_config
from insula.packages.deployable import MB
from insula.packages.descriptor import check_descriptor
from insula.packages.gzipped import ArchiveLimits
from insula.packages.package import Package
from insula.schema.model import Schema, read_description
from insula.spelling import nearest

WASM = "service.wasm"
CONFIG = "okra.json"
IDL = "service.okra.gql"
DESCRIPTION = "service.description.json"
DESCRIPTOR = "service.pb.desc"
MIGRATIONS = "migrations"

#: The most bytes of each file.
SIZES = {WASM: 128 * MB, CONFIG: MB, IDL: MB, DESCRIPTION: 4 * MB, DESCRIPTOR: 4 * MB}
MAX_MIGRATION = MB

_REQUIRED = {
    WASM: "it is the compiled guest",
    CONFIG: "it says what the package is called and asks for",
    DESCRIPTION: "it is the parsed schema",
    DESCRIPTOR: "it is the schema as a protobuf FileDescriptorSet",
}
_BOM = b"\xef\xbb\xbf"
_CORE = b"\0asm\x01\0\0\0"
_MIGRATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.sql")
_TEXT_MODULE = re.compile(rb"\s*(;;|\(;|\(module|\(component)")


def unpack(archive: Path, into: Path, limits: ArchiveLimits | None = None) -> Extracted:
    """Extracts the files of a package into the empty folder `into`. Blocking; PackageError or OSError."""
    with open(archive, "rb") as stream:
        extracted = extract(stream, into, _size_allowed, limits)
    for name, what in _REQUIRED.items():
        if name not in extracted.files:
            raise PackageError(f"the package has no {name}", hint=_missing_hint(name, what, extracted))
    for path in extracted.passed_over:
        _check_migration_name(path)
    return extracted


def load_package(folder: Path, digest: str) -> Package:
    """The package whose files lie in `folder`, checked from top to bottom. Blocking; PackageError or OSError.

    `digest` is the sha256 of the archive that they came out of.
    """
    config = read_config((folder / CONFIG).read_bytes())
    wasm_digest = _check_wasm(folder / WASM)
    schema = _read_schema(folder)
    check_descriptor((folder / DESCRIPTOR).read_bytes(), DESCRIPTOR)
    from insula.schema.descriptors import to_descriptor_set

    return Package(
        digest=digest,
        folder=folder,
        config=config,
        schema=schema,
        wasm=folder / WASM,
        wasm_digest=wasm_digest,
        descriptor=to_descriptor_set(schema),
        migrations=_migrations(folder),
    )


def digest_of(file: Path) -> str:
    """The sha256 of a file, in hex. Blocking."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size_allowed(path: str) -> int | None:
    folder, _, name = path.rpartition("/")
    if folder == MIGRATIONS and _MIGRATION.fullmatch(name):
        return MAX_MIGRATION
    return None if folder else SIZES.get(name)


def _check_migration_name(path: str) -> None:
    """A migration with a name that is none is refused: left out silently, it would be missed at the first query."""
    if path.startswith(f"{MIGRATIONS}/") and path.lower().endswith(".sql"):
        raise PackageError(
            f"{path!r} in the package is not the name of a migration", hint="they look like migrations/001_orders.sql"
        )


def _missing_hint(name: str, what: str, extracted: Extracted) -> str:
    if not extracted.files and not extracted.passed_over:
        return "the archive is empty"
    meant = nearest(name, [path.rpartition("/")[2] for path in extracted.passed_over])
    if meant is not None:
        return f"there is {meant[:80]!r}; {name} must be called exactly that"
    deeper = next((path for path in extracted.passed_over if path.endswith(f"/{name}")), None)
    if deeper is not None:
        return f"there is {deeper[:200]!r}; pack from inside that folder"
    return f"{what}; `insula build` writes it"


def _check_wasm(file: Path) -> str:
    with open(file, "rb") as stream:
        start = stream.read(64)
    if not start.startswith(_CORE):
        raise PackageError(*_not_a_module(start))
    return digest_of(file)


def _not_a_module(start: bytes) -> tuple[str]:
    if not start:
        return (f"{WASM} is empty: did the compiler fail?",)
    if start[:4] != _CORE[:4]:
        if _TEXT_MODULE.match(start):
            return (f"{WASM} is WebAssembly text; assemble it first, for example with wasm-tools parse",)
        return (f"{WASM} is not WebAssembly: it starts with {start[:4].hex(' ')} and not with 00 61 73 6d",)
    if start[6:8] == b"\x01\0":
        return (f"{WASM} is a component, and components are not supported yet; build a core module",)
    return (f"{WASM} is of a WebAssembly version that is not known: {start[4:8].hex(' ')} in place of 01 00 00 00",)


def _read_schema(folder: Path) -> Schema:
    from insula.schema.check import check_schema

    described = read_description((folder / DESCRIPTION).read_bytes().removeprefix(_BOM))
    if not described.services:
        raise PackageError(
            f"{DESCRIPTION} describes no service", hint="the IDL needs a service Name { … }; build the package again"
        )
    try:
        check_depth(DESCRIPTION, msgspec.to_builtins(described))
    except RecursionError as error:
        raise PackageError(f"{DESCRIPTION} nests its values too deeply") from error
    schema = check_schema(described, DESCRIPTION)
    if (folder / IDL).exists():
        _check_idl((folder / IDL).read_bytes(), schema)
    return schema


def _check_idl(data: bytes, description: Schema) -> None:
    try:
        text = data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PackageError(f"{IDL}:{line}: the text is not UTF-8") from error
    from insula.schema.idl import parse_idl

    if found := difference(parse_idl(text, IDL), description):
        raise PackageError(
            f"{IDL} and {DESCRIPTION} differ: {found}",
            hint="the description is made from the IDL by `insula build`; build the package again",
        )


def _migrations(folder: Path) -> tuple[str, ...]:
    files = sorted((folder / MIGRATIONS).glob("*.sql")) if (folder / MIGRATIONS).is_dir() else []
    for file in files:
        try:
            file.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise PackageError(f"{MIGRATIONS}/{file.name} is not UTF-8 text") from error
    return tuple(file.name for file in files)
