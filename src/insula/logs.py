"""The log: configured once by the code that runs the server, never at import, and written by a thread of its own.

No call that logs ever waits: a record goes into a bounded queue, and a queue that is full drops it, counts it and says
so in the log as soon as there is room. Lines are text for people or one JSON object each for programs. What a guest or a
client wrote can stand in a message, so control characters are escaped, lines are cut at `MAX_LINE` characters, and a
traceback is indented: nobody can forge a line, move the cursor or flood the file by one record. Nor by many: one place in
the code writes `SAME_RATE` lines a second, `SAME_BURST` at once, and says how many it left out; a client that makes every
request fail, or a guest that traps at every call, fills no disk. (What guests write has a bound of its own a service.)
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import logging.handlers
import queue
import re
import sys
import threading
from types import TracebackType
from typing import IO, Any, Self

from insula.errors import ConfigurationError
from insula.settings import LoggingSettings
from insula.times import rfc3339

#: Records that may wait for the writer.
QUEUE_SIZE = 10_000
#: Characters of one message, and of one traceback.
MAX_LINE = 16_384
#: Lines that one place in the code may write in a second, and at once.
SAME_RATE = 20.0
SAME_BURST = 200.0

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BOUNDED_ELSEWHERE = "insula.guest."
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS = {"debug": "\x1b[2m", "info": "", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}


def escaped(text: str, *, limit: int = MAX_LINE) -> str:
    """The text on one line: control characters and changes of direction written as escapes, a long one cut."""
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit} more characters)"
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    return rfc3339(record.created)


class TextFormatter(logging.Formatter):
    """`2025-01-31T12:00:00.000Z info insula.edge: message key=value`, and a traceback indented below it."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One record, without the line end."""
        level = record.levelname.lower()
        line = f"{_time(record)} {level:<7} {record.name}: {escaped(record.getMessage())}"
        for key, value in _fields(record).items():
            line += f" {escaped(key, limit=100)}={escaped(str(value))}"
        if self._colour and _COLOURS.get(level):
            line = f"{_COLOURS[level]}{line}\x1b[0m"
        if record.exc_text:
            text = record.exc_text[-MAX_LINE:]
            line += "".join(f"\n    {escaped(part)}" for part in text.splitlines())
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, the caller's own fields, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, without the line end."""
        out: dict[str, Any] = {key: escaped(str(value)) for key, value in _fields(record).items()}
        out.update(
            time=_time(record),
            level=record.levelname.lower(),
            logger=record.name,
            message=escaped(record.getMessage()),
        )
        if record.exc_text:
            out["exception"] = record.exc_text[-MAX_LINE:]
        return json.dumps(out)


class _Place:
    """How many lines one place in the code may write now, and how many it was not let."""

    __slots__ = ("at", "left_out", "tokens")

    def __init__(self) -> None:
        self.tokens, self.at, self.left_out = SAME_BURST, 0.0, 0

    def passes(self, now: float) -> bool:
        self.tokens = min(SAME_BURST, self.tokens + max(0.0, now - self.at) * SAME_RATE)
        self.at = now
        if self.tokens < 1:
            self.left_out += 1
            return False
        self.tokens -= 1
        return True


class _NoLock(contextlib.nullcontext[None]):
    """What logging takes for a lock, in any of its versions."""

    def acquire(self) -> None:
        """Nothing to wait for."""

    def release(self) -> None:
        """Nothing to give back."""


class _Enqueue(logging.Handler):
    """The only handler of the root logger: renders what may change, and hands the record to the writer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._places: dict[tuple[str, int], _Place] = {}
        self.records: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self.dropped = 0
        self._size = size

    def createLock(self) -> None:  # noqa: N802
        """None: a simple queue needs no lock, and no call that logs may wait for one."""
        self.lock = _NoLock()  # type: ignore[assignment]

    def emit(self, record: logging.LogRecord) -> None:
        """Puts one record into the queue, or counts it as dropped."""
        if self.records.qsize() >= self._size:
            self.dropped += 1
            return
        left_out = 0
        if not record.name.startswith(_BOUNDED_ELSEWHERE):
            # without a lock, which no call that logs may wait for: a count may be off by one where threads meet
            place = self._places.setdefault((record.pathname, record.lineno), _Place())
            if not place.passes(record.created):
                return
            left_out, place.left_out = place.left_out, 0
        record = copy.copy(record)
        try:
            record.msg = record.getMessage()
        except Exception as error:
            record.msg = f"a log line that cannot be written ({type(error).__name__}): {record.msg!r}"
        record.args = None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like it were left out before)"
        self.records.put(record)


class Logs:
    """The log of one process. `start` takes over the root logger, `close` writes what waits and gives it back."""

    def __init__(self, settings: LoggingSettings, *, stream: IO[str] | None = None, size: int = QUEUE_SIZE) -> None:
        """Opens the file, if the settings name one; ConfigurationError where it cannot be."""
        self._settings = settings
        self._queue = _Enqueue(size)
        self._before: list[tuple[logging.Logger, int]] = []
        self._reported = 0
        self._failures = 0
        self._failed = False  # the record being written is not in the log
        self._thread: threading.Thread | None = None
        self._handler = self._open(stream)

    def _open(self, stream: IO[str] | None) -> logging.StreamHandler[Any]:
        handler: logging.StreamHandler[Any]
        if self._settings.file is not None:
            try:
                handler = logging.handlers.WatchedFileHandler(self._settings.file, encoding="utf-8")
            except OSError as error:
                raise ConfigurationError(
                    f"the file of `logging.file` cannot be opened: {error.strerror}",
                    hint="make its folder, or let the server write there",
                ) from None
            colour = False
        else:
            handler = logging.StreamHandler(stream or sys.stderr)
            colour = handler.stream.isatty()
        handler.setFormatter(JsonFormatter() if self._settings.format == "json" else TextFormatter(colour=colour))
        handler.handleError = self._note_failure  # type: ignore[method-assign]
        return handler

    def _note_failure(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self._failed = True

    @property
    def dropped(self) -> int:
        """Records that are not in the log: the queue was full, or the disk."""
        return self._queue.dropped + self._failures

    def start(self) -> Self:
        """From here on every logger of this process writes here. `level` is that of Insula; the libraries below it speak
        from warnings on, unless `levels` names them."""
        level = self._settings.level
        others = "error" if level == "error" else "warning"
        for name, least in (("", others), ("insula", level), *self._settings.levels.items()):
            logger = logging.getLogger(name)
            self._before.append((logger, logger.level))
            logger.setLevel(least.upper())
        logging.getLogger().addHandler(self._queue)
        self._thread = threading.Thread(target=self._write, name="insula-log", daemon=True)
        self._thread.start()
        return self

    def close(self, timeout: float = 5.0) -> None:
        """Writes what waits, `timeout` seconds at most, and gives the loggers back. May be called twice; blocks, so it is
        called off the event loop."""
        logging.getLogger().removeHandler(self._queue)
        for logger, level in reversed(self._before):
            logger.setLevel(level)
        self._before.clear()
        if self._thread is not None:
            self._queue.records.put(None)
            self._thread.join(timeout)
            self._thread = None
        if self._settings.file is not None:
            self._handler.close()

    def _write(self) -> None:
        while (record := self._queue.records.get()) is not None:
            self._failures += not self._put(record)
            self._report()
        self._report()

    def _put(self, record: logging.LogRecord) -> bool:
        """Whether a record is in the log. Where the file is gone and cannot be made again (its folder is missing, or closed
        to this user), the next record tries anew: the writer never ends before its log does."""
        self._failed = False
        try:
            self._handler.handle(record)
        except OSError:
            return False
        return not self._failed

    def _report(self) -> None:
        lost = self.dropped - self._reported
        if lost and self._queue.records.empty():
            message = f"{lost} log lines were lost: they came too fast, or the log could not be written"
            if self._put(logging.LogRecord("insula.logs", logging.WARNING, __file__, 0, message, None, None)):
                self._reported += lost

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
