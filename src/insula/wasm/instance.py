"""One live guest as an ABI sees it: its memory and exports, the host functions that it calls, and how it ends.

Policy
- It is entered by one thread at a time. It is never entered again after a trap, an exit, a stop or an error of the host.
- No exception ever passes through wasmtime. What a host function raises is kept, the guest traps, and the error is raised
  when the guest has come out.
- A host function that has to wait suspends the guest's fiber: `wait` says what for. The scheduler awaits it
  and gives the outcome to `resume_with`. Where the guest cannot be suspended, in a helper export and under a host
  function, one that has to wait is refused.
- A helper export holds the thread that called it. In a worker it may, until the deadline. On the event loop one that is
  not done within a slice or two makes its method slow and is stopped (`OverranError`): the call is begun anew in a worker,
  or, where the guest had answered already, its instance is given up. The one that makes room for the answer of a host
  function runs on a fiber upon the guest's (`HostImport.place`), and goes on in a worker like the guest itself. Any other
  under a host function gets `INLINE_CPU` seconds of processor time, which no allocator in its right mind needs.
- A guest that fails after a growth of its memory was refused in the same call failed for want of memory: `shortage` is the
  refusal. The module itself notes the growth (rewrite.py). `leased`: its limit stands below its own at present, since the
  memory of all guests is scarce; then that is the reason.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any

from insula.errors import GuestError, InsulaError
from insula.wasm.contract import HostImport, OverranError
from insula.wasm.faults import (
    StoppedError,
    exhausted,
    fault,
    refused,
    too_much,
    unexpected,
    wrong_answer,
)
from insula.wasm.guest_memory import GuestMemory, Tenant
from insula.wasm.linking import Blueprint
from insula.wasm.machine import machine
from insula.wasm.native.template import Template
from insula.wasm.pace import SPENT, Pace
from insula.wasm.traps import EngineError
from insula.wasm.waits import discard
from insula.wasm.wasi import Nap, Wasi
from insula.wasm.weighed import Weighed

log = logging.getLogger("insula.wasm")

#: Processor time (s) that a helper export may take on the event loop under a host function, once its slice is over.
INLINE_CPU = 0.035

#: How deep host functions may be nested in one another through the guest's helper exports.
_MAX_NESTING = 8


#: Of the workers one at a time runs host functions: they need the interpreter, and so does the event loop.
_one_worker = threading.Lock()


class LiveInstance(Weighed):
    """`deadline` (of `time.monotonic()`), `pace` and `scope` are those of the call under way. `wait` is what the suspended
    guest waits for: seconds, or an awaitable."""

    __slots__ = (
        *(
            "_binding",
            "_blueprint",
            "_cpu",
            "_cpu_of",
            "_due",
            "_epoch",
            "_giving",
            "_most_calls",
            "_ticker",
            "_wasi",
        ),
        *("deadline", "holds", "home", "pace", "scope", "stopped", "touched", "wait"),
    )

    def __init__(self, template: Template, blueprint: Blueprint, memory_of_all: GuestMemory, tenant: Tenant) -> None:
        super().__init__(template, memory_of_all, tenant)
        self.holds = False
        self.stopped = False
        self.touched = False
        self.home: Any = None
        self.deadline = 0.0
        self.pace: Pace | None = None
        self.scope: Any = None
        self.wait: float | Awaitable[Any] | None = None
        self._binding: HostImport | Nap
        self._giving = b""
        self._blueprint = blueprint
        self._most_calls = blueprint.limits.host_calls
        self.limit = blueprint.limits.output_bytes
        self._cpu = 0.0
        self._cpu_of = 0
        self._due = False
        self._ticker = machine().ticker
        self._wasi: Wasi | None = Wasi(self, blueprint.wasi)

    # What an ABI sees

    def has(self, export: str) -> bool:
        return export in self.template.exports

    def read(self, pointer: int, size: int, limit: int | None = None) -> bytes:
        end = pointer + size
        if not 0 <= pointer <= end <= self._size:
            self._check(pointer, size)
        if size > (self.limit if limit is None else limit):
            raise too_much(size, self.limit, limit)
        copy: bytes = self._bytes[pointer:end]
        return copy

    def shortage(self, what: str) -> InsulaError | None:
        if not self.growth_refused():
            return None
        return self._memory_of_all.refusal() if self.leased else exhausted(what)

    # Its life

    def enter(self) -> None:
        """Makes ready for one call, of which `scope`, `deadline` and `pace` are set. In the very epoch of the call before
        that is enough. LimitError where it has grown unseen, and all guests have more than they may."""
        self.epoch = self._ticker.epoch
        self._entered_with = size = self.size()
        if (size != self._weight and not self._weighs(size)) or (self._over and self._is_over()):
            raise self._memory_of_all.refusal()
        self.slice()

    def stop(self) -> None:
        """Asks the guest to end, wherever it is; for the loop. It does by the end of its slice."""
        self.alive = False
        self.stopped = True

    def retire(self) -> None:
        self.alive = False

    def free(self) -> None:
        """Gives everything back; idempotent. Nobody is in it."""
        self.alive = False
        try:
            self.dispose()
        finally:
            self._weighs(0)
            if self._lease:
                self._give_back()
        self.scope = self.outcome = self.wait = None
        if self._wasi is None:
            return
        try:
            self._wasi.flush()
        except Exception:
            log.exception("the last output of a guest could not be written")
        self._wasi = (
            None  # the two know each other: so this goes with its last user, and not when somebody looks for garbage
        )

    def why(self, error: BaseException) -> BaseException:
        """The error to raise for an error that came out of the guest; StoppedError stays."""
        if isinstance(error, InsulaError | StoppedError):
            return error
        if isinstance(error, EngineError):
            return StoppedError() if self.stopped else fault(error, self.shortage)
        return unexpected(error)

    def overrun(self) -> None:
        self._ticker.used = True
        self._due = True
        if self.stopped or time.monotonic() >= self.deadline:
            raise StoppedError
        if not self.inline:
            return
        now = time.thread_time()
        if self._cpu_of != self.helpers:
            self._cpu_of, self._cpu = self.helpers, now
            return
        spent = now - self._cpu
        if spent < SPENT:
            return  # the machine is busy, not the guest
        if self.pace is not None:
            self.pace.helper_overran()
        if not self.depth or spent > INLINE_CPU:
            raise OverranError(
                "a helper export of the guest, such as its allocate, takes far too long", reason="helper"
            )

    # Host functions

    def serve(self, host: HostImport, args: tuple[int, ...]) -> tuple[int, ...] | None:
        """Runs a host function; None where the guest has to wait for it."""
        if self.inline or self.holds:
            return self._served(host, args)
        with _one_worker:
            self.holds = True
            try:
                return self._served(host, args)
            finally:
                self.holds = False

    def _served(self, host: HostImport, args: tuple[int, ...]) -> tuple[int, ...] | None:
        if self.stopped:
            raise StoppedError
        if self.depth == _MAX_NESTING:
            raise GuestError(f"the guest's helper exports call {host.module}.{host.name} from within itself")
        self.depth += 1
        try:
            scope = self.scope
            if scope is not None:
                scope.host_calls += 1
                if scope.host_calls > self._most_calls:
                    return self._give(host, refused(host, self._most_calls))
            request = host.take(self, args)
            if request is None:
                return (0,) * len(host.signature.results)
            answer = host.function(scope, request)
            if isinstance(answer, host.answers):
                return self._give(host, answer)
            if type(answer) is not CoroutineType and not inspect.isawaitable(answer):
                raise wrong_answer(host, answer)
            if self.depth > 1 or not self.yields or self.placing:
                discard(answer)
                raise GuestError(f"a helper export of the guest calls {host.module}.{host.name}, which has to wait")
            self.wait = answer
            self._binding = host
            return None
        finally:
            self.depth -= 1
            if self._due:
                self._come_due()

    def let_go(self) -> bool:
        """The guest goes on under a host function: other workers may run theirs meanwhile. Whether `take_back` is due."""
        if not self.holds:
            return False
        self.holds = False
        _one_worker.release()
        return True

    def take_back(self) -> None:
        _one_worker.acquire()
        self.holds = True

    def serve_wasi(self, name: str, args: tuple[int, ...]) -> tuple[int, ...] | None:
        """Runs a WASI function; None where the guest has to sleep."""
        if self.inline or self.holds:
            return self._served_wasi(name, args)
        with _one_worker:
            return self._served_wasi(name, args)

    def _served_wasi(self, name: str, args: tuple[int, ...]) -> tuple[int, ...] | None:
        if self.stopped:
            raise StoppedError
        assert self._wasi is not None  # it is there while the guest is
        answer = self._wasi.call(name, args)
        if isinstance(answer, int):
            return (answer,)
        if self.depth or not self.yields or self.placing:
            return (self._wake_here(answer),)
        self.wait = float(answer.seconds)
        self._binding = answer
        return None

    def _wake_here(self, answer: int | Nap) -> int:
        """Naps of no time, one after the other, where the guest cannot be suspended."""
        while isinstance(answer, Nap):
            if answer.seconds:
                raise GuestError("a helper export of the guest, such as its allocate, sleeps")
            self.overrun()
            answer = answer.wake()
        return answer

    def resume_with(self, outcome: Callable[[], bytes]) -> None:
        """The outcome of what the guest waits for: `outcome` gives the answer of a host function or raises its error."""
        self.wait = None
        self.outcome = outcome

    def answered(self) -> tuple[int, ...] | None:
        if self.placing:
            return self._go_on_giving()
        host, outcome = self._binding, self.outcome
        self.outcome = None
        assert outcome is not None
        if isinstance(host, Nap):
            awake = host.wake()
            if isinstance(awake, int):
                return (awake,)
            if self.stopped:
                raise StoppedError
            self.wait, self._binding = float(awake.seconds), awake
            return None
        answer = outcome()
        if self.stopped:
            raise StoppedError
        if not isinstance(answer, host.answers):
            raise wrong_answer(host, answer)
        self.depth += 1
        try:
            return self._give(host, answer)
        finally:
            self.depth -= 1
            if self._due:
                self._come_due()

    def _give(self, host: HostImport, answer: Any) -> tuple[int, ...] | None:
        """Writes an answer into the guest; None where the helper export that makes room for it needs more time. Under one
        that is under way already there is no more of it."""
        if host.place is None or self.depth > 1 or not self.yields or self.placing or not isinstance(answer, bytes):
            return self._checked(host, host.give(self, answer))
        pointer = self.place(host.place[0], max(1, len(answer)))
        if pointer is None:
            self._binding, self._giving = host, answer
            return None
        return self._checked(host, host.place[1](self, answer, pointer))

    def _go_on_giving(self) -> tuple[int, ...] | None:
        if self.stopped:
            self.give_up_place()
            raise StoppedError
        pointer = self.placed()
        if pointer is None:
            return None
        host, answer, self._giving = self._binding, self._giving, b""
        assert isinstance(host, HostImport)
        assert host.place is not None
        return self._checked(host, host.place[1](self, answer, pointer))

    def _come_due(self) -> None:
        """The slice was over where the guest could not yield, under a host function: it does once it is out of that."""
        if not self.depth:
            self._due = False
            self.epoch = -1
            self.yield_soon()

    @staticmethod
    def _checked(host: HostImport, results: tuple[int, ...]) -> tuple[int, ...]:
        if len(results) != len(host.signature.results):
            raise TypeError(f"{host.module}.{host.name} gave {len(results)} results")
        return results

    def exit(self, what: str) -> None:
        """What WASI ends a guest by."""
        raise self.shortage(what) or GuestError(what, reason="exit")
