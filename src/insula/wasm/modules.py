"""Compiled modules: from the cache or a child process, one in memory for all who use it.

The life of a module
- Asked for the first time, its code is found in the cache or compiled; two who ask at once wait for the same work, and
  when none of them waits any more the work is given up.
- It stays in memory while anyone has it open, and its code stays in the cache as long. With its last user, and the last
  program that is made of it, its file is closed and its mapping is gone.
- What it exports and imports is read from the compiled module, once. The server never parses a `.wasm` itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import wasmtime

from insula.errors import ConfigurationError, InsulaError, PackageError, UnavailableError
from insula.wasm.cache import CodeCache
from insula.wasm.compiler import Compiler, no_room
from insula.wasm.contract import Signature
from insula.wasm.facts import Facts
from insula.wasm.machine import machine
from insula.wasm.rewrite import RESERVED

log = logging.getLogger("insula.wasm")

PAGE = 64 << 10

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Import(NamedTuple):
    """One thing that a module imports. `signature` is None where it is no function; `kind` says what it is then."""

    module: str
    name: str
    signature: Signature | None
    kind: str


class CompiledCode:
    """The compiled code of one module. `memory_bytes` is what its memory starts with, `memory_most` what it may declare
    to grow to (None: no bound of its own)."""

    def __init__(self, digest: str, path: Path, facts: Facts) -> None:
        self.digest = digest
        self.users = 0
        self.gone = False
        self.places = facts.places
        self.module = module = wasmtime.Module.deserialize_file(machine().engine, str(path))
        self.exports: Mapping[str, Signature] = {
            export.name: _signature(export.type)
            if at not in facts.vectors
            else Signature(*map(tuple, facts.vectors[at]))
            for at, export in enumerate(module.exports)
            if isinstance(export.type, wasmtime.FuncType) and not export.name.startswith(RESERVED)
        }
        self.imports: Sequence[Import] = [_import(entry) for entry in module.imports]
        memories = [e.type for e in module.exports if isinstance(e.type, wasmtime.MemoryType) and e.name == "memory"]
        self.has_memory = bool(memories)
        self.memory_bytes = memories[0].limits.min * PAGE if memories else 0
        most = memories[0].limits.max if memories else None
        self.memory_most = None if most is None else most * PAGE


class OpenModule:
    """One user's hold on a module: what the contract calls Module. `close` is idempotent; the last one frees the code,
    unless a program is left that runs it."""

    def __init__(self, code: CompiledCode, unused: Callable[[CompiledCode], None]) -> None:
        self.code = code
        self._unused = unused
        self.digest = code.digest
        self.exports = code.exports
        self.imports: Sequence[tuple[str, str]] = [(entry.module, entry.name) for entry in code.imports]
        self.has_memory = code.has_memory
        self.memory_bytes = code.memory_bytes
        self._open = True
        code.users += 1

    def close(self) -> None:
        if self._open:
            self._open = False
            self.code.users -= 1
            if not self.code.users:
                self._unused(self.code)


class _Work(NamedTuple):
    task: asyncio.Task[CompiledCode]
    waiting: list[object]


class Modules:
    """The modules of one engine; everything but the code itself belongs to the event loop."""

    def __init__(self, cache: CodeCache, compiler: Compiler) -> None:
        self._cache = cache
        self._compiler = compiler
        self._codes: dict[str, CompiledCode] = {}
        self._works: dict[str, _Work] = {}

    async def load(self, wasm: Path, digest: str) -> OpenModule:
        """The compiled module of a file whose sha256 is `digest`. PackageError."""
        if not _DIGEST.fullmatch(digest):
            raise InsulaError("a module's digest is 64 hexadecimal digits")
        while True:
            code = self._codes.get(digest) or await self._share(wasm, digest)
            if not code.gone:  # another who waited for it may have closed it in between
                return OpenModule(code, self._forget)

    async def close(self) -> None:
        """Gives up every work under way."""
        tasks = [work.task for work in self._works.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._codes.clear()

    async def _share(self, wasm: Path, digest: str) -> CompiledCode:
        work = self._works.get(digest)
        if work is None:
            work = self._works[digest] = _Work(asyncio.create_task(self._make(wasm, digest)), [])
            work.task.add_done_callback(lambda _: self._works.pop(digest, None))
        me = object()
        work.waiting.append(me)
        try:
            return await asyncio.shield(work.task)
        except asyncio.CancelledError:
            work.waiting.remove(me)
            if work.task.cancelled():
                raise UnavailableError("the server is stopping") from None
            if not work.waiting:
                work.task.cancel()
            raise

    async def _make(self, wasm: Path, digest: str) -> CompiledCode:
        try:
            return await self._find_or_compile(wasm, digest)
        except ConfigurationError as error:  # of the operator, and none of the deployer's business
            log.error("the cache of compiled modules cannot be used: %s", error)
            raise InsulaError("the module's code cannot be stored", hint="the server's log says why") from None
        except OSError as error:
            log.exception("the cache of compiled modules cannot be used")
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise no_room() if full else InsulaError("the module's code cannot be stored") from None

    async def _find_or_compile(self, wasm: Path, digest: str) -> CompiledCode:
        await asyncio.to_thread(self._cache.prepare)
        code = await asyncio.to_thread(self._find, digest)
        if code is None:
            draft = self._cache.draft(digest)
            try:
                facts = await self._compiler.compile(wasm, digest, draft)
                path = await asyncio.to_thread(self._cache.keep, digest, draft, facts)
            finally:
                await asyncio.to_thread(draft.unlink, missing_ok=True)
            try:
                code = await asyncio.to_thread(CompiledCode, digest, path, facts)
            except wasmtime.WasmtimeError as error:
                log.warning("the pool has no room for module %s: %s", digest[:12], error)
                raise PackageError(
                    "the module has more, or larger, tables and memories than an instance may have", reason="too_large"
                ) from None
            self._codes[digest] = code
            await asyncio.to_thread(self._cache.sweep, set(self._codes))
        return self._codes.setdefault(digest, code)

    def _find(self, digest: str) -> CompiledCode | None:
        found = self._cache.find(digest)
        if found is None:
            return None
        path, facts = found
        try:
            return CompiledCode(digest, path, facts)
        except wasmtime.WasmtimeError as error:
            log.warning("the cached code of module %s cannot be loaded and is made again: %s", digest[:12], error)
            with contextlib.suppress(OSError):
                self._cache.drop(digest)
            return None

    def _forget(self, code: CompiledCode) -> None:
        if self._codes.get(code.digest) is code:
            del self._codes[code.digest]
        code.gone = True
        code.module.close()


def _signature(kind: wasmtime.FuncType) -> Signature:
    return Signature(tuple(map(str, kind.params)), tuple(map(str, kind.results)))


def _import(entry: wasmtime.ImportType) -> Import:
    kind = entry.type
    if isinstance(kind, wasmtime.FuncType):
        return Import(entry.module, entry.name or "", _signature(kind), "function")
    return Import(entry.module, entry.name or "", None, type(kind).__name__.removesuffix("Type").lower())
