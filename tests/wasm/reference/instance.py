"""One live guest: its store, its exports as an ABI sees them, and the host functions that it calls.

Policy
- An instance has a wasmtime engine of its own. An epoch belongs to an engine, so one public call (`increment_epoch`) stops
  exactly this guest, at any moment and from any thread, and no clock has to tick. The code is mapped from the cache, so
  that an engine costs a third of a millisecond and about 120 KB.
- The epoch moves once in an instance's life: when it is to stop. Nothing sets the deadline anew, so a stopped guest can
  never run on.
- It is entered by one thread at a time. It is never entered again after a trap, an exit, a stop or an error of the host.
- No exception ever passes through wasmtime. What a host function raises is kept here, the guest is stopped, every further
  host function answers zero at once, and the error is raised when the guest has come out.
- A guest that fails after a growth of its memory was refused in the same call failed for want of memory; the module itself
  notes the growth (rewrite.py).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import wasmtime

from insula.errors import GuestError, InsulaError, LimitError
from insula.wasm.config import make_config
from insula.wasm.contract import Exchange, HostImport, RefusalError, Signature
from insula.wasm.faults import StoppedError, exhausted, fault, refused, unexpected, wrong_answer
from insula.wasm.linking import Binding, Blueprint
from insula.wasm.rewrite import ENTER, REFUSED
from insula.wasm.traps import EngineError, of_error, of_trap
from insula.wasm.wasi import Nap, Wasi
from tests.wasm.reference.line import Line, discard
from tests.wasm.reference.memory import Memory

log = logging.getLogger("insula.wasm")

_MASK = {"i32": 0xFFFFFFFF, "i64": 0xFFFFFFFFFFFFFFFF}
_TYPES = {
    "i32": wasmtime.ValType.i32,
    "i64": wasmtime.ValType.i64,
    "f32": wasmtime.ValType.f32,
    "f64": wasmtime.ValType.f64,
}

#: How deep host functions may be nested in one another through the guest's helper exports.
_MAX_NESTING = 8

#: Tables that a module may have.
_MAX_TABLES = 8


class ThreadInstance:
    """An instance as the contract has it. `start`, `run` and `free` are called in a worker thread; `stop` on the loop."""

    def __init__(self, blueprint: Blueprint, line: Line) -> None:
        self.alive = True
        self.touched = False
        self.home: Any = None
        self.room_at = 0
        self.room = -1
        self.line = line
        self._blueprint = blueprint
        self._signatures: Mapping[str, Signature] = blueprint.code.exports
        self._scope: Any = None
        self._failure: BaseException | None = None
        self._nesting = 0
        self._started = False  # whether the module's start function is over
        self._may_wait = True  # while it starts, and in the entry of an exchange, but in no helper export
        self._engine: wasmtime.Engine | None = None
        self._module: wasmtime.Module | None = None
        self._store: wasmtime.Store | None = None
        self._linker: wasmtime.Linker | None = None
        self._export: Callable[[str], Any] = lambda name: None
        self._functions: dict[str, wasmtime.Func] = {}
        self._memory: Memory | None = None
        self._wasi = Wasi(self, blueprint.wasi)

    # A life

    def start(self, scope: Any = None) -> None:
        """Makes the instance and runs its `_initialize`. InsulaError, StoppedError."""
        self._scope = scope
        try:
            self._start()
            self._may_wait = False
        except BaseException as error:
            self.alive = False
            raise self._error(error) from None

    def run(self, exchange: Exchange, payload: bytes, scope: Any) -> bytes:
        """Runs one exchange. InsulaError, StoppedError."""
        self._scope = scope
        try:
            args = exchange.begin(self, payload)
            self._may_wait = True
            result = self.first_call(exchange.export, *args)
            self._may_wait = False
            return exchange.finish(self, args, result)
        except RefusalError:
            raise
        except BaseException as error:
            self.alive = False
            raise self._error(error) from None
        finally:
            self._scope = None
            self._may_wait = False

    def retire(self) -> None:
        self.alive = False

    def stop(self) -> None:
        """Makes the guest trap wherever it is, and ends what it waits for."""
        self.alive = False
        self.line.stop()
        self._interrupt()

    def free(self) -> None:
        """Gives everything back; idempotent."""
        self.alive = False
        store, linker, module = self._store, self._linker, self._module
        self._store = self._linker = self._module = self._engine = self._memory = None
        self._functions.clear()
        self._export = lambda name: None
        for owned in (store, linker, module):
            if owned is not None:
                owned.close()
        try:
            self._wasi.flush()
        except Exception:
            log.exception("the last output of a guest could not be written")

    # What an ABI sees

    def has(self, export: str) -> bool:
        return export in self._signatures

    def call(self, export: str, *args: int) -> int:
        return self._call(export, self._function(export), args)

    def first_call(self, export: str, *args: int) -> int:
        entry = self._export(ENTER + export)
        return self._call(export, entry if isinstance(entry, wasmtime.Func) else self._function(export), args)

    def put_in(self, export: str, data: bytes, first: bool = False) -> int:
        pointer = (self.first_call if first else self.call)(export, len(data) or 1)
        if pointer:
            self.write(pointer, data)
        return pointer

    def drop(self, export: str, *pointers: int) -> None:
        for pointer in pointers:
            self.call(export, pointer)

    def _call(self, export: str, function: wasmtime.Func, args: tuple[int, ...]) -> int:
        signature = self._signatures.get(export)
        if signature is None:
            raise GuestError(f"the guest exports no function {export}")
        try:
            value = function(self._live_store(), *args)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            ended = self._ended(error)
            self._check()
            raise fault(ended, self.shortage) from None
        self._check()
        return value & _MASK[signature.results[0]] if isinstance(value, int) else 0

    def read(self, pointer: int, size: int, limit: int | None = None) -> bytes:
        most = self._blueprint.limits.output_bytes if limit is None else limit
        memory = self._live_memory()
        memory.check(pointer, size)
        if size > most:
            raise LimitError(
                f"the guest gave {size} bytes; at most {most} are taken",
                reason="output_limit",
                hint="raise limits.output_mb of the package, or answer in parts",
            )
        return memory.read(pointer, size)

    def write(self, pointer: int, data: bytes) -> None:
        self._live_memory().write(pointer, data)

    def shortage(self, what: str) -> InsulaError | None:
        flag = self._export(REFUSED)
        refused = isinstance(flag, wasmtime.Global) and flag.value(self._live_store())
        return exhausted(what) if refused else None

    # What WASI sees

    def peek(self, pointer: int, size: int) -> bytes:
        return self._live_memory().read(pointer, size)

    def exit(self, what: str) -> None:
        self._fail(self.shortage(what) or GuestError(what, reason="exit"))

    # Inside

    def _start(self) -> None:
        blueprint = self._blueprint
        engine = wasmtime.Engine(make_config())
        store = self._store = wasmtime.Store(engine)
        limits = blueprint.limits
        store.set_limits(
            memory_size=limits.memory_bytes,
            table_elements=limits.table_elements,
            instances=1,
            tables=_MAX_TABLES,
            memories=1,
        )
        store.set_epoch_deadline(1)
        self._engine = engine
        self._check()  # a stop before this line found no engine
        self._module = wasmtime.Module.deserialize(engine, blueprint.code.module.serialize())
        linker = self._linker = wasmtime.Linker(engine)
        for binding in blueprint.bindings:
            kind = _function_type(binding.signature)
            linker.define_func(binding.module, binding.name, kind, self._callback(binding), access_caller=True)
        try:
            exports = linker.instantiate(store, self._module).exports(store)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            ended = self._ended(error)
            self._check()
            raise fault(ended, lambda what: None) from None
        self._check()
        self._export = exports.get
        self._started = True
        if self.has("_initialize"):
            self.first_call("_initialize")

    def _ended(self, error: wasmtime.Trap | wasmtime.WasmtimeError) -> EngineError:
        places = self._blueprint.code.places
        return of_trap(error, places) if isinstance(error, wasmtime.Trap) else of_error(error, places)

    def _callback(self, binding: Binding) -> Callable[..., Any]:
        """The Python function behind one import. It never raises, and always gives results of the right types."""
        masks = [_MASK.get(kind) for kind in binding.signature.params]
        zeros = _shape([0] * len(binding.signature.results))
        host, name = binding.host, binding.name

        def callback(caller: wasmtime.Caller, *args: Any) -> Any:
            try:
                if self._failure is not None or self.line.stopped:
                    return zeros
                if not self._started:
                    self._export = caller.get  # the module's start function runs: there are no exports yet
                unsigned = tuple(arg & mask for arg, mask in zip(args, masks, strict=True) if mask is not None)
                if host is not None and not self._started:
                    raise GuestError(f"the module's start function calls {binding.module}.{name}", reason="start")
                if host is not None:
                    return self._serve(host, unsigned, zeros)
                errno = self._wasi.call(name, unsigned)
                while isinstance(errno, Nap):
                    self._check_wait(name, 0, answered=errno.seconds == 0)
                    self.line.sleep(errno.seconds)
                    errno = errno.wake()
                return errno if binding.signature.results else None
            except BaseException as error:
                self._fail(error)
                return zeros

        return callback

    def _serve(self, host: HostImport, args: tuple[int, ...], zeros: Any) -> Any:
        if self._nesting == _MAX_NESTING:
            raise GuestError(f"the guest's helper exports call {host.module}.{host.name} from within itself")
        self._nesting += 1
        try:
            scope, most = self._scope, self._blueprint.limits.host_calls
            if scope is not None:
                scope.host_calls += 1
                if scope.host_calls > most:
                    return _shape(host.give(self, refused(host, most)))
            request = host.take(self, args)
            if request is None:
                return zeros
            answer = host.function(scope, request)
            if inspect.isawaitable(answer):
                if not self._may_wait or self._nesting > 1:
                    discard(answer)
                self._check_wait(host.name, 1)
                answer = self.line.wait_for(answer)
            if not isinstance(answer, host.answers):
                raise wrong_answer(host, answer)
            results = host.give(self, answer)
            if len(results) != len(host.signature.results):
                raise TypeError(f"{host.module}.{host.name} gave {len(results)} results")
            return _shape(results)
        finally:
            self._nesting -= 1

    def _check_wait(self, name: str, nesting: int, *, answered: bool = False) -> None:
        if not answered and (not self._may_wait or self._nesting > nesting):
            raise GuestError(f"a helper export of the guest calls {name}, which has to wait")

    def _fail(self, error: BaseException) -> None:
        """Keeps the first error, and stops the guest."""
        if self._failure is None:
            self._failure = error
        self._interrupt()

    def _interrupt(self) -> None:
        engine = self._engine
        if engine is not None:
            engine.increment_epoch()

    def _check(self) -> None:
        """Raises what a host function kept, or StoppedError."""
        if self._failure is not None:
            raise self._failure
        if self.line.stopped:
            raise StoppedError

    def _error(self, error: BaseException) -> BaseException:
        return error if isinstance(error, InsulaError | StoppedError) else unexpected(error)

    def _function(self, name: str) -> wasmtime.Func:
        function = self._functions.get(name)
        if function is None:
            found = self._export(name)
            if not isinstance(found, wasmtime.Func):
                raise GuestError(f"the guest exports no function {name}")
            function = self._functions[name] = found
        return function

    def _live_memory(self) -> Memory:
        if self._memory is None:
            found = self._export("memory")
            if not isinstance(found, wasmtime.Memory):
                raise GuestError("the guest exports no memory")
            self._memory = Memory(self._live_store(), found)
        return self._memory

    def _live_store(self) -> wasmtime.Store:
        if self._store is None:
            raise StoppedError
        return self._store


def _function_type(signature: Signature) -> wasmtime.FuncType:
    """A new type each time: wasmtime ties one to the engine that it is first used with."""
    return wasmtime.FuncType(
        [_TYPES[kind]() for kind in signature.params], [_TYPES[kind]() for kind in signature.results]
    )


def _shape(results: Sequence[int]) -> Any:
    """Results as wasmtime-py wants them from a callback."""
    if not results:
        return None
    return results[0] if len(results) == 1 else list(results)
