"""Translates failures of the engine into errors: a plain sentence for the caller, the backtrace for the log alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from wasmtime import TrapCode

from insula.errors import GuestError, InsulaError, LimitError
from insula.wasm.contract import HostImport
from insula.wasm.traps import EngineError

log = logging.getLogger("insula.wasm")

#: Characters of a guest's text in one line of the log, and in one message.
_MAX_LOGGED = 1000
MAX_TOLD = 100

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
        f"{what} after its memory had reached the limit",
        reason="memory_limit",
        hint="make the guest use less, or raise limits.memory_mb",
    )


def too_much(size: int, output: int, limit: int | None) -> LimitError:
    """The refusal of so many bytes that a guest gave, above the limit of its `output`, or above another `limit`."""
    if limit is None:
        return LimitError(
            f"the guest gave {size} bytes; limits.output_mb allows {output}",
            reason="output_limit",
            hint="answer in parts, or raise limits.output_mb",
        )
    return LimitError(f"the guest gave {size} bytes where at most {limit} are taken", reason="guest_message")


def fault(error: EngineError, shortage: Callable[[str], InsulaError | None]) -> InsulaError:
    """The error of a trap, or of wasmtime itself. `shortage` gives the refusal where a trap is for want of memory."""
    if error.code is not None or error.frames:
        text = _TRAPS.get(error.code, "the guest trapped") if error.code is not None else "the guest trapped"
        if _warnings.allowed():
            log.warning("%s\n%s", text, backtrace(error))
        return shortage(text) or GuestError(text, reason="trap")
    text = printable(error.message)
    if _warnings.allowed():
        log.warning("the engine refused: %s", text)
    if "concurrent" in text and "limit" in text:
        return LimitError("the server runs as many guests as it can", reason="instances", retry_after=1.0)
    if "exceeds memory limits" in text or "exceeds table limits" in text:
        return LimitError("the guest needs more memory or a larger table than it may have", reason="memory_limit")
    return GuestError("the guest could not be run", reason="trap")


def backtrace(error: EngineError) -> str:
    """The frames for the log, one a line: the offset in the module's file, the function's index, its name as the module
    has it."""
    lines = []
    for n, frame in enumerate(error.frames):
        place = "?" if frame.offset is None else f"{frame.offset:#x}"
        lines.append(f"    {n:>3}: {place} function {frame.function} {printable(frame.name)}")
    return "\n".join(lines) or "    (no frames)"


def unexpected(error: BaseException) -> InsulaError:
    """An error of ours: the traceback is for the log, and nobody else."""
    log.error("a call ended by an error of the host", exc_info=error)
    return InsulaError("an error inside the server ended the call", reason="host_failure")


def printable(text: str, most: int = _MAX_LOGGED) -> str:
    """Text of a guest's making on one line, without what could forge or garble a log or a terminal, cut to `most`
    characters."""
    cut = text[:most]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else "?" for c in cut)
    return cut if len(text) <= most else f"{cut}…"


def refused(host: HostImport, most: int) -> Any:
    """The answer to a host call over the bound; LimitError where the import has none."""
    error = LimitError(f"one call may make {most} host calls", reason="host_calls")
    if host.refuse is None:
        raise error
    return host.refuse(error)


def wrong_answer(host: HostImport, answer: Any) -> TypeError:
    """A mistake of the host function."""
    right = " or ".join(kind.__name__ for kind in host.answers)
    return TypeError(f"{host.module}.{host.name} answered {type(answer).__name__}, not {right}")
