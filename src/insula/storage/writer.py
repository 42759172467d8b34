"""The one writer of a database: a thread with one connection, on which all that waits is committed together.

Policy. Callers hand over units: functions that get a connection, run their statements and return. Units that wait at
the same moment share one transaction and one commit, each in a savepoint of its own, so that one that fails hurts no
other; a commit costs a sync of the disk, and so it costs it once. A caller gets its answer only after the commit.

A failure that is not a unit's own (the commit failed, a deadlock, the connection was lost before the commit) undoes the
whole group, and its units run again one by one, so a unit may run more than once and keeps no state outside the
database. A connection lost during a commit is never tried again: nobody can tell whether the write was made, and the
callers are told so.

A unit that no caller waits for any more is not begun; once begun it is carried out whole or not at all.

Each service has a share of the places and its turn in a group (see `turns`); the server's own units go first.
"""

from __future__ import annotations

import asyncio
import copy
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from insula.background import fail, thread, unheard
from insula.errors import InsulaError, UnavailableError
from insula.storage.faults import Fault, diagnose, log, refusal, unreachable
from insula.storage.link import Link
from insula.storage.statements import Statement
from insula.storage.turns import Places, Turns

T = TypeVar("T")

MAX_GROUP = 128
#: Bytes of values after which a group is full: the next ones, and the server's own, wait no longer for it than for that.
MAX_GROUP_BYTES = 2 << 20
#: Outcomes that are told in one turn of the loop.
_SETTLED = 16
TRIES = 6

_SAVEPOINT = Statement("SAVEPOINT insula_unit")
_RELEASE = Statement("RELEASE SAVEPOINT insula_unit")
_UNDO = Statement("ROLLBACK TO SAVEPOINT insula_unit")


class Job(Generic[T]):
    """One unit on its way through the writer, and the future of its outcome."""

    __slots__ = ("_claim", "future", "lock", "size", "tenant", "unit")

    def __init__(
        self, unit: Callable[[Connection], T], lock: str, tenant: str, size: int, future: asyncio.Future[T]
    ) -> None:
        self.unit = unit
        self.lock = lock
        self.tenant = tenant
        self.size = size
        self.future = future
        self._claim = threading.Lock()

    def claim(self) -> bool:
        """True for the first that asks: the writer that begins the unit, or the caller that withdraws it."""
        return self._claim.acquire(blocking=False)


class _CommitFailedError(Exception):
    def __init__(self, error: DBAPIError) -> None:
        super().__init__()
        self.error = error


def _lock(job: Job[Any]) -> str:
    """Units are run in the order of what they lock: two servers that take locks in one order never hold each other up."""
    return job.lock


#: What became of a job: its value, or the error in its place.
_Outcome = tuple[Job[Any], Any, BaseException | None]


class Writer:
    """Owns the thread and the link. `submit` and `close` belong to the loop that made it."""

    def __init__(self, link: Link, *, max_waiting: int) -> None:
        self._link = link
        self._places = Places(max_waiting, "writes")
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._turns: Turns[Job[Any]] = Turns()  # the thread's alone
        self._thread = thread(self._run, "insula-writer")
        self._thread.start()

    def submit(self, unit: Callable[[Connection], T], lock: str, tenant: str, size: int) -> Job[T]:
        """Queues a unit that holds `size` bytes; `lock` is what it locks, `tenant` whose share it takes. LimitError where
        that is used up."""
        self._places.enter(tenant, size)
        job = Job(unit, lock, tenant, size, self._loop.create_future())
        self._queue.put(job)
        return job

    async def close(self) -> None:
        """Carries out what waits, then ends the thread and closes the connection. Nothing is submitted after it."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._link.close)

    # From here on: the writer's thread.

    def _run(self) -> None:
        last = False
        while not last or self._turns:
            last = self._let_in() or last
            group, withdrawn = self._gather()
            if withdrawn:
                self._report([(job, None, None) for job in withdrawn])
            if group:
                group.sort(key=_lock)
                self._report(self._survive(group))

    def _let_in(self) -> bool:
        """Puts in line all that has come, waiting for it where the line is empty. True at the end of the queue."""
        try:
            while True:
                job = self._queue.get(block=not self._turns)
                if job is None:
                    return True
                self._turns.put(job)
        except queue.Empty:
            return False

    def _gather(self) -> tuple[list[Job[Any]], list[Job[Any]]]:
        """The next jobs, up to the size of a group: those to run, and those that were withdrawn."""
        group: list[Job[Any]] = []
        withdrawn: list[Job[Any]] = []
        size = 0
        while self._turns and len(group) < MAX_GROUP and size < MAX_GROUP_BYTES:
            job = self._turns.take()
            if job.claim():
                group.append(job)
                size += job.size
            else:
                withdrawn.append(job)
        return group, withdrawn

    def _survive(self, group: list[Job[Any]]) -> list[_Outcome]:
        """The outcomes of a group, whatever happens: without this thread every later write would wait in vain."""
        try:
            return self._carry_out(group)
        except BaseException:
            log.exception("a group of %d writes failed in a way that nobody foresaw", len(group))
            self._link.close()
            why = InsulaError(
                "the write failed and may or may not have been made",
                reason="outcome_unknown",
                hint="read the present state before trying again; the server's log says why",
            )
            return [(job, None, copy.copy(why)) for job in group]

    def _carry_out(self, group: list[Job[Any]]) -> list[_Outcome]:
        if len(group) > 1:
            try:
                return self._transaction(group)
            except UnavailableError as error:
                return self._unreached(group, error)
            except _CommitFailedError as failure:
                if diagnose(failure.error) is Fault.LOST:
                    log.error("the connection was lost while %d writes were committed", len(group))
                    return self._unreached(group, unreachable(committing=True))
                log.warning("a group of %d writes failed to commit; one by one now", len(group))
            except DBAPIError as error:
                log.warning("a group of %d writes was undone (%s); one by one now", len(group), diagnose(error).value)
            except Exception:
                log.exception("a group of %d writes was undone; one by one now", len(group))
        outcomes: list[_Outcome] = []
        for place, job in enumerate(group):
            try:
                outcomes.append(self._alone(job))
            except UnavailableError as error:  # the database is out of reach: the rest need not wait to find that out
                return outcomes + self._unreached(group[place:], error)
        return outcomes

    def _alone(self, job: Job[Any]) -> _Outcome:
        for attempt in range(1, TRIES + 1):
            try:
                return self._transaction([job])[0]
            except UnavailableError:
                raise
            except _CommitFailedError as failure:
                error, committing = failure.error, True
            except DBAPIError as other:
                error, committing = other, False
            except Exception as bug:
                return job, None, bug
            fault = diagnose(error)
            if attempt == TRIES or not (fault is Fault.AGAIN or (fault is Fault.LOST and not committing)):
                return job, None, refusal(error, committing=committing)
            time.sleep(random.uniform(0.5, 1) * 0.005 * 2**attempt)  # noqa: S311  (two servers must not meet again)
        raise AssertionError("the last attempt returns")

    def _transaction(self, jobs: list[Job[Any]]) -> list[_Outcome]:
        """Runs the units in one transaction. Raises DBAPIError where all of it was undone."""
        try:
            connection = self._link.connection()
            with connection.begin() as transaction:
                if len(jobs) == 1:
                    outcome = self._unit(connection, jobs[0])
                    if outcome[2] is not None:
                        transaction.rollback()
                        return [outcome]
                    outcomes = [outcome]
                else:
                    outcomes = [self._guarded(connection, job) for job in jobs]
                try:
                    transaction.commit()
                except DBAPIError as error:
                    raise _CommitFailedError(error) from None
            return outcomes
        except BaseException:
            # Whatever state the connection is in, the next transaction begins on a fresh one.
            self._link.close()
            raise

    def _guarded(self, connection: Connection, job: Job[Any]) -> _Outcome:
        _SAVEPOINT.run(connection)
        outcome = self._unit(connection, job)
        if outcome[2] is not None:
            _UNDO.run(connection)
        _RELEASE.run(connection)
        return outcome

    @staticmethod
    def _unit(connection: Connection, job: Job[Any]) -> _Outcome:
        try:
            return job, job.unit(connection), None
        except DBAPIError as error:
            if diagnose(error) is not Fault.OWN:
                raise
            return job, None, refusal(error)
        except StopIteration as error:  # the one exception that a future refuses to carry
            return job, None, RuntimeError(f"a unit raised {error!r}")
        except Exception as error:
            return job, None, error

    @staticmethod
    def _unreached(jobs: list[Job[Any]], why: UnavailableError) -> list[_Outcome]:
        return [(job, None, copy.copy(why)) for job in jobs]  # each caller raises one of its own

    def _report(self, outcomes: list[_Outcome]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, outcomes)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.warning("%d writes ended after their callers' event loop", len(outcomes))

    # Back on the loop.

    def _settle(self, outcomes: list[_Outcome]) -> None:
        if len(outcomes) > _SETTLED:  # each wakes a caller, and the next turn runs them all
            self._loop.call_soon(self._settle, outcomes[_SETTLED:])
        for job, value, error in outcomes[:_SETTLED]:
            self._places.leave(job.tenant, job.size)
            if job.future.done():
                unheard(error, "a write")
                continue
            if error is None:
                job.future.set_result(value)
            else:
                fail(job.future, error)
