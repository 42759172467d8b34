"""What guests write for people to read: `okra.log` and their stdout and stderr, under one bound a service.

A guest is a stranger, and a log is read in terminals: control characters are written as escapes, so that no line can
pretend to be another one or move the reader's cursor; what is longer than `MAX_TEXT` characters is cut, and says so. A
service may write `RATE` lines a second, `BURST` at once. What is above that is dropped and counted: the first line that
is dropped is announced at once, and the number of those that were when the next line gets through.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from insula.calls import ServiceId

RATE = 100.0
BURST = 200.0
MAX_TEXT = 8192

_ESCAPES = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0x200B, 0x2010),  # zero width and direction marks
        *range(0x2028, 0x202F),  # line and paragraph separators, direction overrides
        *range(0x2066, 0x206A),
        0xFEFF,
        *range(0xD800, 0xE000),
    )
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


def plain(text: str | bytes, more: int = 0) -> str:
    """The text on one line, without anything that a terminal would act on, and of bounded length. `more` characters were
    left out behind it."""
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    cut = len(text) + more - MAX_TEXT
    if cut > 0:
        text = text[:MAX_TEXT]
    if not text.isprintable():
        text = text.translate(_ESCAPES)
    return f"{text} … ({cut} more characters)" if cut > 0 else text


class GuestLog:
    """The log of one service: logger `insula.guest.<service id>`. Safe from any thread. `dropped` counts for ever."""

    def __init__(self, service: ServiceId, *, now: Callable[[], float] = time.monotonic) -> None:
        self.dropped = 0
        self._service = str(service)
        self._logger = logging.getLogger(f"insula.guest.{service}")
        self._now = now
        self._lock = threading.Lock()
        self._tokens = BURST
        self._at = now()
        self._closed_until = 0.0  # no line gets through before
        self._unreported = 0

    def write(self, level: int, text: str | bytes, extra: Mapping[str, Any] | None = None, *, more: int = 0) -> None:
        """One line, or nothing where there were too many. `more` characters of it were left out by the caller. Bytes are
        text as a guest has it; those that are no UTF-8 are written as escapes. A line that is dropped is not looked at."""
        with self._lock:
            now = self._now()
            passes = now >= self._closed_until
            if passes:
                self._tokens = min(BURST, self._tokens + (now - self._at) * RATE)
                self._at = now
                passes = self._tokens >= 1
            if passes:
                self._tokens -= 1
                missed, self._unreported = self._unreported, 0
            else:
                self._closed_until = self._at + (1 - self._tokens) / RATE
                self.dropped += 1
                self._unreported += 1
                if self._unreported > 1:
                    return
                missed = 1
        if passes:
            if missed:
                self._logger.warning("%d lines of this service were dropped", missed)
            self._logger.log(level, "%s", plain(text, more), extra={"service": self._service, **(extra or {})})
        else:
            self._logger.warning("this service writes more than %d lines a second; lines are dropped", int(RATE))


class GuestLogs:
    """The log of each service that has one: made at first use, gone with the last generation that holds it."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._logs: weakref.WeakValueDictionary[ServiceId, GuestLog] = weakref.WeakValueDictionary()

    def of(self, service: ServiceId) -> GuestLog:
        """The one log of this service, shared by its capability, its output and its generations."""
        log = self._logs.get(service)
        if log is None:
            log = self._logs[service] = GuestLog(service, now=self._now)
        return log

    def dropped(self, service: ServiceId) -> int:
        """How many lines of this service were dropped. Safe from any thread: it looks one log up and walks through none."""
        log = self._logs.get(service)
        return 0 if log is None else log.dropped
