"""The codec processes of a server: they read and write the bodies that would hold the event loop.

A C call that decodes a large body holds the interpreter from its beginning to its end, and a thread beside it waits as the
event loop does. So such work is done in a few processes, started at their first need and kept. A job goes to one by a
thread, which does nothing but wait for pipes.

- Jobs wait in a queue whose bytes are bounded, with a share for each service; a service that has taken its share is refused
  (`resource_exhausted`), and of two processes one service works in one at a time. Services take turns.
- A job that is not done at the deadline of its call is `deadline_exceeded`. Its process has `GRACE` to come to an end of
  it, and is killed then: most jobs take milliseconds, a new process a hundred. One that is being started is let.
- A process that ends by itself is replaced, and its job done again, once (`process.py`).
- What the system does not give (a thread, a process, a descriptor) is a refusal (`unavailable`), and takes nothing away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial

import msgspec

from insula.background import fail, unheard
from insula.errors import LimitError, UnavailableError
from insula.rotation import Rotation
from insula.shares import Shares
from insula.threads import Threads
from insula.transcoding.frames import WRITES, Work
from insula.transcoding.process import Process, Subject, too_late

log = logging.getLogger("insula.transcoding")

#: Bytes that a waiting job is counted with beside those of its body.
_JOB_BYTES = 4096
#: Seconds that a process may go on with a job whose deadline has passed, and that it may take to start meanwhile.
GRACE = 0.1
START = 30.0
#: Seconds that `close` waits for the threads of jobs whose processes it has killed.
CLOSE_WITHIN = 10.0


class _Waiting(msgspec.Struct, eq=False):
    subject: Subject
    method: str
    work: Work
    body: bytes
    deadline: float
    answer: asyncio.Future[bytes]
    units: int
    waits: bool = True
    process: Process | None = None
    timer: asyncio.TimerHandle | None = None


class CodecProcesses:
    """At most `at_once` processes of `memory` bytes of address space each; at most `queue` bytes wait or are worked
    on. One event loop uses it."""

    def __init__(self, *, at_once: int = 2, memory: int = 512 << 20, queue: int = 256 << 20) -> None:
        self._memory = memory
        self._bytes: Shares[str] = Shares(queue)
        self._running: Shares[str] = Shares(at_once)
        self._idle = [Process(memory) for _ in range(at_once)]
        self._all = tuple(self._idle)
        self._queue: Rotation[str, _Waiting] = Rotation()
        self._threads = Threads(at_once, "insula-codec")
        self._closed = False

    @property
    def waiting(self) -> int:
        """Jobs that wait for a process."""
        return len(self._queue)

    def submit(self, subject: Subject, method: str, work: Work, body: bytes, deadline: float) -> asyncio.Future[bytes]:
        """A future of the converted body. LimitError if the service has used up its share of the queue; the future fails
        with InsulaError. Cancelling the future withdraws a job that waits."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise UnavailableError("the server is stopping", retry_after=1.0)
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise too_late()
        units = min(len(body) + _JOB_BYTES, self._bytes.most // 2)
        if not self._bytes.take(subject.service, units):
            raise LimitError(
                f"{subject.service} has as many large bodies waiting as its share of limits.held_mb allows, "
                f"{self._bytes.most >> 20} MiB for all services",
                reason="codec_queue",
                hint="try again later" if work in WRITES else "try again later, or send less at once",
                retry_after=1.0,
            )
        job = _Waiting(subject, method, work, body, deadline, loop.create_future(), units)
        if remaining < 1e6:
            job.timer = loop.call_later(remaining, self._expired, job)
        self._queue.put(subject.service, job)
        job.answer.add_done_callback(partial(self._left, job))
        self._start()
        return job.answer

    def _start(self) -> None:
        """Gives waiting jobs to idle processes, one service after the other."""
        while self._idle:
            taken = self._queue.take(self._running.has_room)
            if taken is None:
                return
            service, job = taken
            job.waits = False
            if job.answer.done():  # in this turn
                self._bytes.give(service, job.units)
                continue
            process = next((one for one in reversed(self._idle) if one.alive), self._idle[-1])
            process.begin()
            try:
                work = self._threads.run(process.run, job.subject, job.method, job.work, job.body, job.deadline)
            except UnavailableError as error:
                self._bytes.give(service, job.units)
                fail(job.answer, error)
                continue
            self._running.take(service)
            self._idle.remove(process)
            job.process = process
            work.add_done_callback(partial(self._done, job, process))

    def _done(self, job: _Waiting, process: Process, work: asyncio.Future[bytes]) -> None:
        job.process = None
        self._idle.append(process)
        self._running.give(job.subject.service)
        self._bytes.give(job.subject.service, job.units)
        error = work.exception()
        answer = job.answer
        if not answer.done():
            if time.monotonic() >= job.deadline:
                fail(answer, too_late())
            elif error is not None:
                fail(answer, error)
            else:
                answer.set_result(work.result())
        else:
            unheard(error, f"a codec process of {job.subject.service}")
        if not self._closed:
            self._start()

    def _expired(self, job: _Waiting) -> None:
        if job.answer.done():
            return
        fail(job.answer, too_late())
        if job.process is not None:
            asyncio.get_running_loop().call_later(GRACE, self._overdue, job, time.monotonic() + START)

    def _overdue(self, job: _Waiting, until: float) -> None:
        """Ends the process that still works on a job nobody waits for."""
        process = job.process
        if process is None:
            return
        if process.starting and time.monotonic() < until:
            asyncio.get_running_loop().call_later(GRACE, self._overdue, job, until)
        else:
            process.kill()

    def _left(self, job: _Waiting, _: asyncio.Future[bytes]) -> None:
        """Nobody waits for this job any more, or it is done."""
        if job.timer is not None:
            job.timer.cancel()
        if job.waits:
            self._queue.withdraw(job.subject.service, job)
            self._bytes.give(job.subject.service, job.units)

    async def close(self) -> None:
        """Refuses what waits, ends the processes. Idempotent."""
        self._closed = True
        for service in tuple(self._queue.tenants):
            for job in tuple(self._queue.waiting(service)):
                if not job.answer.done():
                    fail(job.answer, UnavailableError("the server is stopping", retry_after=1.0))
        for process in self._all:
            process.kill()
        with suppress(UnavailableError):  # there is no thread, so there was no process, or all have ended
            for process in self._all:
                self._threads.run(process.close)
        self._threads.close()
        if not await self._threads.ended(CLOSE_WITHIN):
            log.error("the codec processes did not end within %d s, and are left", CLOSE_WITHIN)
