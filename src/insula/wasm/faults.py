"""What an engine failure is called: a plain sentence for whoever called, the backtrace for the log alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import wasmtime
from wasmtime import TrapCode

from insula.errors import GuestError, InsulaError, LimitError

log = logging.getLogger("insula.wasm")

#: The longest text of a guest's making that goes into the log at once, in characters.
_MAX_LOGGED = 4000

_TRAPS = {
    TrapCode.STACK_OVERFLOW: "the guest overflowed its stack",
    TrapCode.MEMORY_OUT_OF_BOUNDS: "the guest used memory that it does not have",
    TrapCode.TABLE_OUT_OF_BOUNDS: "the guest called through a table entry that is not there",
    TrapCode.INDIRECT_CALL_TO_NULL: "the guest called through a null table entry",
    TrapCode.BAD_SIGNATURE: "the guest called a function by the wrong type",
    TrapCode.INTEGER_OVERFLOW: "the guest's integer arithmetic overflowed",
    TrapCode.INTEGER_DIVISION_BY_ZERO: "the guest divided by zero",
    TrapCode.BAD_CONVERSION_TO_INTEGER: "the guest converted a number that does not fit an integer",
    TrapCode.UNREACHABLE: "the guest reached its unreachable instruction (it aborted or panicked)",
}


class _Warnings:
    """At most so many warnings a minute: a guest that traps at every call must not fill the disk. What is left out is
    counted, and said with the next one. Asked by several threads; a race costs one warning more or less."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._since = 0.0
        self._said = 0
        self._left_out = 0

    def allowed(self) -> bool:
        """Whether this one may be written."""
        now = self._clock()
        if now - self._since >= _MINUTE:
            left_out, self._left_out = self._left_out, 0
            self._since, self._said = now, 0
            if left_out:
                log.warning("%s more traps of guests were not logged", left_out)
        self._said += 1
        if self._said > self._most:
            self._left_out += 1
            return False
        return True


_MINUTE = 60.0
_warnings = _Warnings(100)


class OutOfBoundsError(GuestError):
    """The guest named memory that it does not have."""

    def __init__(self, pointer: int, size: int, has: int) -> None:
        super().__init__(
            f"the guest named {size} bytes at {pointer}, outside its memory of {has} bytes", reason="out_of_bounds"
        )


class StoppedError(Exception):
    """The guest was stopped from outside: its deadline passed, nobody waits for it any more, or the engine closes."""


def exhausted(what: str) -> LimitError:
    """The refusal where a guest failed for want of memory; `what` is how it failed."""
    return LimitError(
        f"{what} with its memory at the limit",
        reason="memory_limit",
        hint="raise limits.memory_mb of the package, or make the guest use less",
    )


def fault(error: BaseException, at_limit: bool) -> InsulaError:
    """The error of a trap, or of wasmtime itself."""
    if isinstance(error, wasmtime.Trap):
        text = _TRAPS.get(error.trap_code, "the guest trapped") if error.trap_code is not None else "the guest trapped"
        if _warnings.allowed():
            log.warning("%s\n%s", text, printable(error.message))
        return exhausted(text) if at_limit else GuestError(text, reason="trap")
    text = printable(str(error))
    if _warnings.allowed():
        log.warning("the engine refused: %s", text)
    if "concurrent" in text and "limit" in text:
        return LimitError("the server runs as many guests as it can", reason="instances", retry_after=1.0)
    if "exceeds memory limits" in text or "exceeds table limits" in text:
        return LimitError("the guest needs more memory or a larger table than it may have", reason="memory_limit")
    return GuestError("the guest could not be run", reason="trap")


def unexpected(error: BaseException) -> InsulaError:
    """An error of ours: the traceback is for the log, and nobody else."""
    log.error("a call ended by an error of the host", exc_info=error)
    return InsulaError("an error inside the server ended the call", reason="host_failure")


def printable(text: str) -> str:
    """Text of a guest's making without what could forge or garble a log."""
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in text[:_MAX_LOGGED])
    return text.replace("\n", "\n    ")
