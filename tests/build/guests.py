"""Guests straight on wasmtime: the okra exports called by hand, over a host that answers from Python."""

from __future__ import annotations

import functools
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime

from insula.build.project import build

Host = Callable[[dict[str, Any]], dict[str, Any]]


@functools.cache
def engine() -> wasmtime.Engine:
    """One engine for all, made at its first use: pytest's fault handler has to be there before it."""
    return wasmtime.Engine()


def write_project(folder: Path, files: dict[str, str], **config: Any) -> Path:
    """A project folder with these files and an okra.json."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"name": "Echo", "version": "1.0.0", **config}
    (folder / "okra.json").write_text(json.dumps(whole), encoding="utf-8")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def members(package: Path) -> dict[str, bytes]:
    """The files of a package by name."""
    with tarfile.open(package) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]


def build_module(folder: Path) -> wasmtime.Module:
    """The project built and its module compiled, which takes a second for one in Go: share it."""
    return wasmtime.Module(engine(), members(build(folder).path)["service.wasm"])


def no_host(request: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError(f"the guest was not to call the host: {request}")


class Guest:
    """One instance. `host` answers `okra.run_host_api`; what it raises ends the call."""

    def __init__(self, module: wasmtime.Module, host: Host = no_host) -> None:
        self.module = module
        self.imports = [(entry.module, entry.name) for entry in self.module.imports]
        self.host = host
        self._store = wasmtime.Store(engine())
        self._store.set_wasi(wasmtime.WasiConfig())
        linker = wasmtime.Linker(engine())
        linker.define_wasi()
        pair = [wasmtime.ValType.i32(), wasmtime.ValType.i32()]
        linker.define_func("okra", "run_host_api", wasmtime.FuncType(pair, pair), self._run_host_api)
        self._exports = linker.instantiate(self._store, self.module).exports(self._store)
        if "_initialize" in self._exports:
            self._call("_initialize")

    def six(self, method: str, payload: bytes) -> tuple[bool, bytes]:
        """The six-call exchange: whether it is an error object, and the JSON."""
        name = method.encode()
        places = [self._put(self._call("allocate", len(data)), data) for data in (name, payload)]
        packed = self._call("handle_request", places[0], len(name), places[1], len(payload))
        failed, output, pointer = self._result(packed)
        for place in (*places, pointer):
            self._call("deallocate", place)
        return failed, output

    def one(self, number: int, payload: bytes) -> tuple[bool, bytes]:
        """The one-call entry, the same way."""
        self._put(self._call("insula_input", len(payload)), payload)
        return self._result(self._call("insula_call", number, len(payload)))[:2]

    def call(self, number: int, method: str, payload: bytes) -> tuple[bool, bytes]:
        """By both entries, whose answers have to be the same."""
        answer = self.six(method, payload)
        assert self.one(number, payload) == answer
        return answer

    def raw(self, export: str, *args: int) -> int:
        """One export, called as it is."""
        return self._call(export, *args)

    def size(self) -> int:
        """The pages of memory that the guest has."""
        return self._memory.size(self._store)

    def _call(self, export: str, *args: int) -> int:
        function = self._exports[export]
        assert isinstance(function, wasmtime.Func)
        return int(function(self._store, *args) or 0)

    @property
    def _memory(self) -> wasmtime.Memory:
        memory = self._exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        return memory

    def _put(self, pointer: int, data: bytes) -> int:
        assert pointer
        self._memory.write(self._store, data, pointer)
        return pointer

    def _result(self, packed: int) -> tuple[bool, bytes, int]:
        packed &= (1 << 64) - 1
        assert packed, "the guest failed and said nothing"
        pointer, length = packed >> 32 & 0x7FFFFFFF, packed & 0xFFFFFFFF
        return bool(packed >> 63), bytes(self._memory.read(self._store, pointer, pointer + length)), pointer

    def _run_host_api(self, pointer: int, length: int) -> list[int]:
        request = bytes(self._memory.read(self._store, pointer, pointer + length))
        answer = self.host(json.loads(request))
        if not answer:
            return [0, 0]
        response = json.dumps(answer).encode()
        return [self._put(self._call("allocate", len(response)), response), len(response)]
