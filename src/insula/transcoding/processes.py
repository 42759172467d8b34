"""The codec processes of a server: they read and write the bodies that would hold the event loop.

A C call that decodes a large body holds the interpreter from its beginning to its end, and a thread beside it waits as the
event loop does. So such work is done in a few processes, started at their first need and kept. A job goes to one by a
thread, which does nothing but wait for pipes.

- Jobs wait in a queue whose bytes are bounded, with a share for each service; a service that has taken its share is refused
  (`resource_exhausted`), and of two processes one service works in one at a time. Services take turns.
- A job is done by the deadline of its call, or its process is killed and `deadline_exceeded` is what came of it.
- A process has a bounded address space. Where that does not suffice, the job is refused and the process is replaced; so is
  one that has loaded many schemas, as the classes of a schema are never freed.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import msgspec

from insula.background import unheard
from insula.errors import DeadlineError, InsulaError, LimitError, UnavailableError
from insula.schema.bounds import Bounds
from insula.schema.model import Schema
from insula.shares import Shares
from insula.transcoding.frames import Answer, Job, Work, error_of, receive, send

log = logging.getLogger("insula.transcoding")

#: Schemas that one process loads.
MAX_SCHEMAS = 32
#: Bytes that a waiting job is counted with beside those of its body.
_JOB_BYTES = 4096
#: Bytes that a pipe holds, where the system lets it.
_PIPE_BYTES = 1 << 20
#: `F_SETPIPE_SZ` of Linux.
_SET_PIPE_SIZE = 1031

_answers = msgspec.msgpack.Decoder(Answer)


class Subject(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Whose body it is: the service, and the schema and bounds of it under a key of their own."""

    service: str
    key: str
    schema: Schema
    bounds: Bounds


class _Waiting(msgspec.Struct, eq=False):
    subject: Subject
    method: str
    work: Work
    body: bytes
    deadline: float
    answer: asyncio.Future[bytes]
    units: int
    waits: bool = True
    process: _Process | None = None
    timer: asyncio.TimerHandle | None = None


class CodecProcesses:
    """At most `at_once` processes of `memory` bytes of address space each; at most `queue` bytes wait or are worked
    on. One event loop uses it."""

    def __init__(self, *, at_once: int = 2, memory: int = 512 << 20, queue: int = 256 << 20) -> None:
        self._memory = memory
        self._bytes: Shares[str] = Shares(queue)
        self._running: Shares[str] = Shares(at_once)
        self._idle = [_Process(memory) for _ in range(at_once)]
        self._all = tuple(self._idle)
        self._queues: dict[str, deque[_Waiting]] = {}
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="insula-codec")
        self._closed = False

    @property
    def waiting(self) -> int:
        """Jobs that wait for a process."""
        return sum(map(len, self._queues.values()))

    def submit(self, subject: Subject, method: str, work: Work, body: bytes, deadline: float) -> asyncio.Future[bytes]:
        """A future of the converted body. LimitError if the service has used up its share of the queue; the future fails
        with InsulaError. Cancelling the future withdraws a job that waits."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise UnavailableError("the server stops", retry_after=1.0)
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise _too_late()
        units = min(len(body) + _JOB_BYTES, self._bytes.most // 2)
        if not self._bytes.take(subject.service, units):
            raise LimitError(
                f"{subject.service} has as many large bodies waiting as its share of limits.held_mb allows, "
                f"{self._bytes.most >> 20} MiB for all services",
                reason="codec_queue",
                hint="try again later, or send less at once",
                retry_after=1.0,
            )
        job = _Waiting(subject, method, work, body, deadline, loop.create_future(), units)
        if remaining < 1e6:
            job.timer = loop.call_later(remaining, self._expired, job)
        self._queues.setdefault(subject.service, deque()).append(job)
        job.answer.add_done_callback(partial(self._left, job))
        self._start()
        return job.answer

    def _start(self) -> None:
        """Gives waiting jobs to idle processes, one service after the other."""
        while self._idle:
            service = next((name for name in self._queues if self._running.has_room(name)), None)
            if service is None:
                return
            queue = self._queues.pop(service)
            job = queue.popleft()
            if queue:
                self._queues[service] = queue  # behind the others
            job.waits = False
            if job.answer.done():  # in this turn
                self._bytes.give(service, job.units)
                continue
            self._running.take(service)
            job.process = process = self._idle.pop()
            process.begin()
            work = asyncio.get_running_loop().run_in_executor(self._threads, process.run, job)
            work.add_done_callback(partial(self._done, job, process))

    def _done(self, job: _Waiting, process: _Process, work: asyncio.Future[bytes]) -> None:
        job.process = None
        self._idle.append(process)
        self._running.give(job.subject.service)
        self._bytes.give(job.subject.service, job.units)
        error = work.exception()
        answer = job.answer
        if not answer.done():
            if time.monotonic() >= job.deadline:
                answer.set_exception(_too_late())
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(work.result())
        else:
            unheard(error, f"a codec process of {job.subject.service}")
        if not self._closed:
            self._start()

    def _expired(self, job: _Waiting) -> None:
        if job.answer.done():
            return
        job.answer.set_exception(_too_late())
        if job.process is not None:
            job.process.kill()

    def _left(self, job: _Waiting, _: asyncio.Future[bytes]) -> None:
        """Nobody waits for this job any more, or it is done."""
        if job.timer is not None:
            job.timer.cancel()
        if job.waits:
            queue = self._queues[job.subject.service]
            queue.remove(job)
            if not queue:
                del self._queues[job.subject.service]
            self._bytes.give(job.subject.service, job.units)

    async def close(self) -> None:
        """Refuses what waits, ends the processes. Idempotent."""
        self._closed = True
        for queue in list(self._queues.values()):
            for job in list(queue):
                if not job.answer.done():
                    job.answer.set_exception(UnavailableError("the server stops", retry_after=1.0))
        for process in self._all:
            process.kill()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._threads.shutdown()
        for process in self._all:
            process.close()


class _Process:
    """One process, started again where it has ended. `run` is called in one thread at a time, `kill` by the event loop
    while a job runs."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._keys: set[str] = set()
        self._killed = False

    def begin(self) -> None:
        """Called by the event loop before a job."""
        self._killed = False

    def run(self, job: _Waiting) -> bytes:
        """Converts the body of a job. InsulaError."""
        subject = job.subject
        process = self._process
        if process is None or (subject.key not in self._keys and len(self._keys) >= MAX_SCHEMAS):
            process = self._started()
        schema = b"" if subject.key in self._keys else msgspec.msgpack.encode(subject.schema)
        seconds = min(max(0.0, job.deadline - time.monotonic()), 86_400.0)
        head = Job(subject.key, job.method, job.work, subject.bounds, seconds, schema)
        assert process.stdin is not None
        assert process.stdout is not None
        came: tuple[Answer, bytes] | None = None
        with suppress(OSError, ValueError):
            send(process.stdin, head, job.body)
            came = receive(process.stdout, _answers)
        if came is None:
            killed = self._killed
            code = self._end()
            if killed:
                raise _too_late()
            log.error("a codec process ended with %s at %s/%s", code, subject.service, job.method)
            raise InsulaError("internal error", hint="the server's log has the cause")
        self._keys.add(subject.key)
        answer, body = came
        if answer.refusal is not None:
            raise error_of(answer.refusal)
        if answer.out_of_memory:
            self._end()
            raise LimitError(
                f"the body takes more memory than limits.codec_memory_mb allows, {self._memory >> 20} MiB",
                reason="codec_memory",
                hint="send less at once; the operator may raise limits.codec_memory_mb of the server",
            )
        if answer.broken:
            self._end()
            log.error("a codec failed at %s/%s: %s", subject.service, job.method, answer.broken)
            raise InsulaError("internal error", hint="the server's log has the cause")
        return body

    def _started(self) -> subprocess.Popen[bytes]:
        self._end()
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-m", "insula.transcoding.child", str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"MALLOC_ARENA_MAX": "1", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                assert pipe is not None
                fcntl.fcntl(pipe.fileno(), _SET_PIPE_SIZE, _PIPE_BYTES)
        self._process = process
        if self._killed:  # while it was being started
            process.kill()
        return process

    def _end(self) -> int | None:
        """Ends the process, and says how it ended."""
        process, self._process = self._process, None
        self._keys.clear()
        if process is None:
            return None
        process.kill()
        with suppress(OSError):
            process.communicate()
        return process.returncode

    def kill(self) -> None:
        """Ends the job that runs."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process, where no job runs."""
        self._end()


def _too_late() -> InsulaError:
    return DeadlineError("the call's time was over while its body was read or its answer written")
