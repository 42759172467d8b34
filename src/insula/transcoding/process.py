"""One codec process, as the server has it: started when there is a job, and started again where it has ended.

Between jobs a process may be ended from outside: by the kernel, for want of memory, or by an operator. That is looked for
before each job. A job whose process ends is done again on a fresh one, once, since a conversion changes nothing outside of
its process; where that one ends too, the job is what ends them.

A process has a bounded address space. Where that does not suffice, the job is refused and the process is replaced; so is
one that has loaded many schemas, as the classes of a schema are never freed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import BinaryIO

import msgspec

from insula.errors import DeadlineError, InsulaError, LimitError, UnavailableError
from insula.schema.bounds import Bounds
from insula.schema.model import Schema
from insula.transcoding.frames import (
    FINGERPRINT,
    WRITES,
    Answer,
    Job,
    Work,
    error_of,
    fingerprint,
    receive,
    send,
)

log = logging.getLogger("insula.transcoding")

#: Schemas that one process loads.
MAX_SCHEMAS = 32
#: Bytes that a pipe holds, where the system lets it.
_PIPE_BYTES = 1 << 20
#: `F_SETPIPE_SZ` of Linux.
_SET_PIPE_SIZE = 1031
#: Seconds for a killed process to be gone.
_REAPED = 5.0

_answers = msgspec.msgpack.Decoder(Answer)

#: What the operator may raise where the system does not give what a process takes.
_RAISE = {
    errno.EMFILE: "the operator may raise the limit on open files of the server (ulimit -n)",
    errno.ENFILE: "the operator may raise the limit on open files of the machine (fs.file-max)",
    errno.EAGAIN: "the operator may raise the limit on processes (ulimit -u, pids.max)",
    errno.ENOMEM: "the machine, or the server's part of it, has too little memory",
}


class Subject(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Whose body it is: the service, and the schema and bounds of it under a key of their own."""

    service: str
    key: str
    schema: Schema
    bounds: Bounds


class _Running:
    """A started process and its pipes."""

    def __init__(self, memory: int) -> None:
        """OSError where the system does not give all that it takes; nothing is left of it then."""
        ends: list[int] = []
        try:
            # not by Popen, which leaves the first pipe open where there is no second
            ends += os.pipe()
            ends += os.pipe()
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-m", "insula.transcoding.child", str(memory)],
                stdin=ends[0],
                stdout=ends[3],
                env={"MALLOC_ARENA_MAX": "1", "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        except BaseException:
            for end in ends:
                os.close(end)
            raise
        os.close(ends[0])
        os.close(ends[3])
        for end in ends[1:3]:
            with suppress(OSError):
                fcntl.fcntl(end, _SET_PIPE_SIZE, _PIPE_BYTES)
        self.jobs: BinaryIO = os.fdopen(ends[1], "wb")
        self.answers: BinaryIO = os.fdopen(ends[2], "rb")
        self.keys: set[str] = set()

    def end(self) -> int | None:
        """Kills the process; its exit status, None where the system does not let it go."""
        self.process.kill()
        for pipe in (self.jobs, self.answers):
            with suppress(OSError):
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_REAPED)
        return self.process.returncode


class Process:
    """`run` and `close` are called in threads, `begin` by the event loop before a job, `kill` by the event loop while the
    job runs. `starting`: the process does not have the job yet."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._running: _Running | None = None
        self._one = threading.Lock()  # for a `close` beside a `run` that was killed
        self._killed = False
        self.starting = False
        self._told = ""  # why the last start failed

    @property
    def alive(self) -> bool:
        """Whether there is a process that was not seen to end."""
        return self._running is not None

    def begin(self) -> None:
        """A job follows."""
        self._killed = False
        self.starting = True

    def run(self, subject: Subject, method: str, work: Work, body: bytes, deadline: float) -> bytes:
        """Converts a body. InsulaError."""
        with self._one:
            return self._run(subject, method, work, body, deadline)

    def kill(self) -> None:
        """Ends the job that runs."""
        self._killed = True
        running = self._running
        if running is not None:
            running.process.kill()

    def close(self) -> None:
        """Ends the process, once no job runs."""
        with self._one:
            self._end()

    def _run(self, subject: Subject, method: str, work: Work, body: bytes, deadline: float) -> bytes:
        came = self._asked(subject, method, work, body, deadline) or self._asked(subject, method, work, body, deadline)
        if came is None:
            raise InsulaError("internal error", hint="the server's log has the cause")
        answer, converted = came
        if answer.refusal is not None:
            raise error_of(answer.refusal)
        if answer.out_of_memory:
            self._end()
            raise _out_of_memory(work, self._memory)
        if answer.broken:
            self._end()
            log.error("a codec failed at %s/%s: %s", subject.service, method, answer.broken)
            raise InsulaError("internal error", hint="the server's log has the cause")
        return converted

    def _asked(
        self, subject: Subject, method: str, work: Work, body: bytes, deadline: float
    ) -> tuple[Answer, bytes] | None:
        """What the process answers; None where it ended by itself."""
        self.starting = True
        running = self._ready(subject.key)
        if time.monotonic() >= deadline:
            raise too_late()  # while it was started
        self.starting = False
        schema = b"" if subject.key in running.keys else msgspec.msgpack.encode(subject.schema)
        seconds = min(max(0.0, deadline - time.monotonic()), 86_400.0)
        came: tuple[Answer, bytes] | None = None
        with suppress(OSError, ValueError):
            with suppress(BrokenPipeError):  # one that has no memory for the job says so, and ends
                send(running.jobs, Job(subject.key, method, work, subject.bounds, seconds, schema), body)
            came = receive(running.answers, _answers)
        if came is not None:
            running.keys.add(subject.key)
            return came
        code = self._end()
        if self._killed:
            raise too_late()
        log.error("a codec process %s at %s/%s", _how(code), subject.service, method)
        return None

    def _ready(self, key: str) -> _Running:
        """A process that lives, and has the schema or room for it."""
        running = self._running
        if running is not None and running.process.poll() is not None:
            log.warning("a codec process %s while it was idle; it is started again", _how(self._end()))
        elif running is not None and (key in running.keys or len(running.keys) < MAX_SCHEMAS):
            return running
        return self._started()

    def _started(self) -> _Running:
        self._end()
        try:
            running = self._running = _Running(self._memory)
        except OSError as error:
            self._tell(f"a codec process cannot be started: {error}")
            raise UnavailableError(
                f"the server cannot start a process for large bodies: {(error.strerror or 'it failed').lower()}",
                reason="no_codec_process",
                hint=_RAISE.get(error.errno or 0, "the server's log has the cause"),
                retry_after=1.0,
            ) from None
        if self._killed:  # while it was being started
            running.process.kill()
        theirs = b""
        with suppress(OSError):
            theirs = running.answers.read(FINGERPRINT)
        if theirs == fingerprint():
            self._told = ""
            return running
        code = self._end()
        if self._killed:
            raise too_late()
        if len(theirs) < FINGERPRINT:
            self._tell(f"a codec process {_how(code)} before its first job")
            hint = "the server's log has the cause"
        else:
            self._tell("the server's program was changed on the disk below it, as by an upgrade: restart the server")
            hint = "the operator has to restart the server, whose program was changed while it ran"
        raise UnavailableError(
            "the server cannot start a process for large bodies", reason="no_codec_process", hint=hint
        )

    def _tell(self, failure: str) -> None:
        """Logs why no process is started: once in a row, not at every request."""
        if failure != self._told:
            log.error("%s", failure)
        self._told = failure

    def _end(self) -> int | None:
        """Ends the process, and says how it ended."""
        running, self._running = self._running, None
        return None if running is None else running.end()


def _how(code: int | None) -> str:
    """How a process ended, for the log."""
    if code is None:
        return "does not end"
    if code >= 0:
        return f"ended with status {code}"
    if code == -signal.SIGKILL:
        return (
            "was ended by SIGKILL (the kernel does that for want of memory: see its log, and the memory of the server)"
        )
    return f"was ended by {signal.Signals(-code).name}"


def _out_of_memory(work: Work, memory: int) -> LimitError:
    what, less = "the body", "send less at once"
    if work in WRITES:
        what, less = "the service's answer", "let the service answer in parts"
    return LimitError(
        f"{what} takes more memory than limits.codec_memory_mb allows, {memory >> 20} MiB",
        reason="codec_memory",
        hint=f"{less}; the operator may raise limits.codec_memory_mb of the server",
    )


def too_late() -> InsulaError:
    """The refusal of a job whose deadline has passed."""
    return DeadlineError("the call's time was over while its body was read or its answer written")
