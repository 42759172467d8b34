"""Joins a blueprint to the callbacks that wasmtime has for its imports: what instances are made of."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from insula.wasm import wasi
from insula.wasm.contract import HostImport, Signature
from insula.wasm.faults import MAX_TOLD, printable
from insula.wasm.linking import Blueprint
from insula.wasm.native import callbacks
from insula.wasm.native.template import Definition, Template

if TYPE_CHECKING:
    from insula.wasm.instance import LiveInstance


def template_of(blueprint: Blueprint) -> Template:
    """The blueprint, linked. A mistake in a host function's signature is a ValueError."""
    definitions = []
    for binding in blueprint.bindings:
        if binding.host is not None:
            name = printable(f"{binding.module}.{binding.name}", MAX_TOLD)
            callback = callbacks.later(binding.signature, functools.partial(_serve, binding.host), name=name)
            is_later = True
        else:
            callback, is_later = _wasi_callback(binding.name)
        definitions.append(Definition(binding.module, binding.name, binding.signature, callback, is_later))
    limits = blueprint.limits
    return Template(
        blueprint.code.module,
        dict(blueprint.code.exports),
        definitions,
        memory_bytes=limits.memory_bytes,
        table_elements=limits.table_elements,
        places=blueprint.code.places,
    )


def _serve(host: HostImport, cell: LiveInstance, args: tuple[int, ...]) -> tuple[int, ...] | None:
    return cell.serve(host, args)


@functools.cache
def _wasi_callback(name: str) -> tuple[Any, bool]:
    """One callback a function of WASI, shared by every program of the process; and whether it may wait."""
    signature: Signature = wasi.FUNCTIONS[name]
    waits = name in wasi.NAPPING
    make = callbacks.later if waits else callbacks.now
    return make(signature, lambda cell, args: cell.serve_wasi(name, args)), waits
