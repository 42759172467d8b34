"""Joins what a module imports with what is offered, before any instance is made: every mismatch has its own message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from insula.errors import PackageError
from insula.wasm import wasi
from insula.wasm.contract import GuestLimits, HostImport, Signature, WasiOptions
from insula.wasm.faults import MAX_TOLD, printable
from insula.wasm.modules import CompiledCode, Import


class Binding(NamedTuple):
    """One import of a module and what answers it: a host function, or WASI where that is None."""

    module: str
    name: str
    signature: Signature
    host: HostImport | None


class Blueprint(NamedTuple):
    """What every instance of a program is made of. `memory_most` is the limit (bytes) that its memory really has."""

    code: CompiledCode
    bindings: Sequence[Binding]
    limits: GuestLimits
    wasi: WasiOptions
    memory_most: int


def bind(code: CompiledCode, imports: Sequence[HostImport], limits: GuestLimits, options: WasiOptions) -> Blueprint:
    """What instances of this module are made of. PackageError names the import that nobody answers, or that has another
    type, and memory that the module cannot start without."""
    offered = {(entry.module, entry.name): entry for entry in imports}
    bindings = {(wanted.module, wanted.name): _bind(wanted, offered) for wanted in code.imports}
    for wanted in code.imports:
        if wanted.signature != bindings[wanted.module, wanted.name].signature:
            raise PackageError(f"the module imports {_told(wanted)} twice, with two types")
    if code.memory_bytes > limits.memory_bytes:
        raise PackageError(
            f"the module starts with {code.memory_bytes >> 10} KiB of memory and may have {limits.memory_bytes >> 10} KiB",
            reason="memory_limit",
            hint="raise limits.memory_mb",
        )
    most = limits.memory_bytes if code.memory_most is None else min(limits.memory_bytes, code.memory_most)
    return Blueprint(code, list(bindings.values()), limits, options, most)


def _bind(wanted: Import, offered: dict[tuple[str, str], HostImport]) -> Binding:
    name = _told(wanted)
    if wanted.signature is None:
        raise PackageError(
            f"the module imports the {wanted.kind} {name}; only functions can be imported",
            hint="a guest brings its own memory and tables: link it without --import-memory and --import-table",
        )
    host = offered.get((wanted.module, wanted.name))
    if host is not None:
        right: Signature | None = host.signature
    elif wanted.module == wasi.MODULE:
        right = wasi.FUNCTIONS.get(wanted.name)
    else:
        right = None
    if right is None:
        here = sorted({module for module, _ in offered} | {wasi.MODULE})
        raise PackageError(
            f"the module imports {name}, which nobody offers here",
            reason="unknown_import",
            hint=f"functions can be imported from {', '.join(here)}",
        )
    if wanted.signature != right:
        raise PackageError(
            f"the module imports {name} as {wanted.signature}; it is {right}", reason="wrong_import_type"
        )
    return Binding(wanted.module, wanted.name, right, host)


def _told(wanted: Import) -> str:
    """The name of an import for a message."""
    return f"{printable(wanted.module, MAX_TOLD)}.{printable(wanted.name, MAX_TOLD)}"
