"""A service as an actor: calls come in through `submit`, one instance works on one call at a time.

What happens to a call
- An instance is idle and nobody waits: it runs at once, and where the engine answers inline, `submit` returns the reply.
- Otherwise it waits in the mailbox, in order of arrival, and an instance is started where there may be one more. A
  singleton has one instance, so its calls run one after the other in the order in which they came.
- The mailbox is full: `resource_exhausted`, at once.
- Its deadline passes while it waits: `deadline_exceeded`. While it runs, the engine sees to the same.
- The caller cancels the pending reply: it leaves the mailbox, or the instance that runs it is stopped and replaced.
- It came here by a call of this very service, or through too many services: `resource_exhausted`.

What happens to an instance
- After a trap, an exit or a missed deadline it is closed and one is started in its place at once.
- How many there are, and what becomes of the service where one does not start: see `instances.py`.

What ends a service
- `drain`: no new call is taken, those accepted finish and its instances end their lives (life.py) within the time given,
  then it stops. A call that found its plan before the flip and comes after it (its body was still on the way) goes to the
  `successor`, where there is one.
- `stop`: what waits or runs fails with `unavailable`, instances are closed. `closed` waits for the last to come back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from insula.background import fail
from insula.calls import Call, Dispatcher, Pending, Reply, ServiceId
from insula.errors import Code, DeadlineError, InsulaError, LimitError, UnavailableError
from insula.host.scope import Home, Scope
from insula.services.clock import Clock, LoopClock
from insula.services.counts import Counts
from insula.services.instances import Instances
from insula.services.life import Life, Lives
from insula.services.mailbox import Mailbox, Ticket
from insula.services.refusals import check_path, no_method, streaming_method, unexpected
from insula.services.states import State, move
from insula.wasm.contract import Exchange, Instance, Program, Runner, UnbegunError

log = logging.getLogger("insula.services")

_READY = State.READY

#: How many waiting calls are handed to instances before the event loop gets its turn.
_BATCH = 16


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """The bounds of one service. `idle_after` in seconds; `max_depth` is how many services a call may have come
    through."""

    min_instances: int = 0
    max_instances: int = 8
    mailbox: int = 256
    idle_after: float = 60.0
    max_depth: int = 8


class Service:
    """One deployed generation at work. Everything here runs on the event loop.

    `methods` has for each method how it is called; None for one that only a streaming gateway can call. `life` is what its
    instances do when they start and before they go; `prepare` makes the home of each ready.
    """

    def __init__(
        self,
        service_id: ServiceId,
        program: Program,
        methods: Mapping[str, Exchange | None],
        options: ServiceOptions = ServiceOptions(),
        *,
        life: Life | None = None,
        prepare: Callable[[Home], None] = lambda home: None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.id = service_id
        self.name = str(service_id)
        self.successor: Dispatcher | None = None
        self.counts = Counts()
        self._program = program
        self._runner = program.runner
        self._calls_host = program.calls_host
        self._methods = methods
        self._entrances: dict[str, Callable[[Call], Reply | Pending]] = {}
        self._options = options
        self._clock = clock or LoopClock()
        self._waiting = Mailbox(options.mailbox, self._clock, self._expired)
        self._queue = self._waiting.queue
        self._running: set[Ticket] = set()
        self._lives = Lives(service_id, program, life or Life(), self._clock, prepare)
        self._instances = Instances(
            self.name,
            self._lives,
            self._waiting,
            minimum=options.min_instances,
            maximum=options.max_instances,
            idle_after=options.idle_after,
            clock=self._clock,
            jitter=jitter,
            counts=self.counts,
            pump=self._pump,
            refuse=self._refuse,
            notify=self._notify,
        )
        self._pool = self._instances.pool
        self._idle = self._pool.idle
        self._grow = self._instances.grow
        self._changed: asyncio.Event | None = None

    # What others read

    @property
    def state(self) -> State:
        return self._instances.state

    @property
    def last_error(self) -> str | None:
        """What ended an instance last, or kept one from starting."""
        return self._instances.last_error

    @property
    def in_flight(self) -> int:
        """Calls that an instance is working on."""
        return self._pool.busy

    @property
    def queued(self) -> int:
        """Calls that wait for an instance."""
        return len(self._waiting)

    def instances(self) -> dict[str, int]:
        """How many instances there are of each kind, and how many there may be."""
        pool = self._pool
        return {"idle": len(pool.idle), "busy": pool.busy, "starting": pool.starting, "max": pool.maximum}

    @property
    def memory(self) -> int:
        """Bytes of memory that its instances have, and may grow to at the moment."""
        return self._program.memory

    def mailbox(self) -> dict[str, int]:
        """How many calls wait, and how many may."""
        return {"waiting": len(self._waiting), "max": self._waiting.bound}

    def shed(self) -> None:
        """Closes every idle instance above the minimum, whose memory others need now."""
        self._instances.shed()

    # Calls

    def submit(self, call: Call) -> Reply | Pending:
        """The reply, or a future of it, or InsulaError. Cancelling the future ends the call."""
        return self.entrance(call.method)(call)

    def entrance(self, method: str) -> Callable[[Call], Reply | Pending]:
        """`submit` for the calls of one method."""
        entrance = self._entrances.get(method)
        if entrance is None:
            exchange = self._methods.get(method)
            if exchange is None:
                return self._refuse_method
            entrance = self._entrances[method] = self._entrance(exchange)
        return entrance

    def _entrance(self, exchange: Exchange) -> Callable[[Call], Reply | Pending]:
        counts, idle, queue, run, this = self.counts, self._idle, self._queue, self._runner(exchange), self.id
        instances = self._instances
        #: A guest that calls no host function has no use for a scope of its own.
        hosts, nothing = self._calls_host, Scope(this, Call(this, "", b"", 0.0))

        def submit(call: Call) -> Reply | Pending:
            counts.calls += 1
            try:
                if instances.state is not _READY:
                    if self.successor is not None:
                        return self.successor.submit(call)
                    instances.check_taking()
                if call.path:
                    check_path(self.name, call, self._options.max_depth)
                if queue or not idle:
                    return self._wait(call, run)
                instance = idle.pop()
                instance.touched = True
                scope = Scope(this, call, instance.home) if hosts else nothing
                try:
                    result = run(instance, call.payload, scope, call.deadline)
                except UnbegunError as error:
                    self._leave(instance, scope, error, call)
                    return self._wait(call, run)
                except Exception as error:
                    raise self._failed(instance, scope, error, call) from error
                if not isinstance(result, bytes):
                    ticket = self._ticket(call, run)
                    self._follow(ticket, instance, scope, result)
                    return ticket.pending
                if scope.host_calls or not instance.alive:
                    self._leave(instance, scope)
                    return Reply(result, tuple(scope.headers), tuple(scope.trailers))
                idle.append(instance)  # as the pool would take it back
                return Reply(result)
            except InsulaError as error:
                counts.failed(error.code)
                raise

        return submit

    def _refuse_method(self, call: Call) -> Reply | Pending:
        """`submit` for what is no method that can be called once."""
        self.counts.calls += 1
        if self.state is not _READY and self.successor is not None:
            return self.successor.submit(call)
        self.counts.failed(Code.UNIMPLEMENTED)
        if call.method in self._methods:
            raise streaming_method(self.name, call.method)
        raise no_method(self.name, call.method)

    def _wait(self, call: Call, run: Runner) -> Pending:
        if call.deadline <= self._clock.now():
            raise DeadlineError("the deadline passed before the call began")
        if self._waiting.full:
            raise LimitError(
                f"{self.name} has {self._waiting.bound} calls waiting and takes no more",
                reason="mailbox_full",
                hint="try again later, or raise limits.mailbox",
                retry_after=1.0,
            )
        ticket = self._ticket(call, run)
        self._waiting.put(ticket)
        self._grow()
        return ticket.pending

    def _ticket(self, call: Call, run: Runner) -> Ticket:
        ticket = Ticket(call, run, asyncio.get_running_loop().create_future(), self._clock.now())
        ticket.pending.add_done_callback(partial(self._abandoned, ticket))
        return ticket

    def _failed(self, instance: Instance, scope: Scope, error: Exception, call: Call) -> InsulaError:
        """The end of a call that failed at once; what the failure is called."""
        told = error if isinstance(error, InsulaError) else unexpected(self.name, error)
        self._leave(instance, scope, told, call)
        return told

    def _leave(
        self, instance: Instance, scope: Scope, error: InsulaError | None = None, call: Call | None = None
    ) -> None:
        """The end of a call: the instance goes back, or is replaced where the call killed it. An error takes with it what
        the guest had set for the head and the end of its answer."""
        if error is not None and (scope.headers or scope.trailers):
            error.headers, error.trailers = tuple(scope.headers), tuple(scope.trailers)
        scope.end()
        self._pool.give(instance)
        if not instance.alive:
            self.counts.traps += 1
            if error is not None and error.code is not Code.CANCELED:
                self._instances.last_error = error.message
                asked = f"/{call.method} (request {call.request_id or 'without an id'})" if call is not None else ""
                log.warning("%s%s ended its instance, which is replaced: %s", self.name, asked, error.message)
            self._instances.replace()

    def _follow(self, ticket: Ticket, instance: Instance, scope: Scope, running: asyncio.Future[bytes]) -> None:
        ticket.running = running
        self._running.add(ticket)
        running.add_done_callback(partial(self._finished, ticket, instance, scope))

    def _finished(self, ticket: Ticket, instance: Instance, scope: Scope, running: asyncio.Future[bytes]) -> None:
        self._running.discard(ticket)
        error: InsulaError | None = None
        if running.cancelled():
            error = InsulaError("the call was cancelled", code=Code.CANCELED)
        elif (failure := running.exception()) is not None:
            error = failure if isinstance(failure, InsulaError) else unexpected(self.name, failure)
        if isinstance(error, UnbegunError) and not ticket.pending.done():
            self._again(ticket)
        elif error is not None:
            self._refuse(ticket, error)
        elif not ticket.pending.done():
            ticket.pending.set_result(Reply(running.result(), tuple(scope.headers), tuple(scope.trailers)))
        self._leave(instance, scope, error, ticket.call)
        if self._queue or not instance.alive:
            self._pump()
        elif self._changed is not None:
            self._notify()

    def _again(self, ticket: Ticket) -> None:
        """Puts a call that no guest has seen back into the mailbox, where there is always room for one that left it."""
        ticket.running = None
        self._waiting.put(ticket)

    def _refuse(self, ticket: Ticket, error: InsulaError) -> None:
        if not ticket.pending.done():
            self.counts.failed(error.code)
            fail(ticket.pending, error)

    def _expired(self, ticket: Ticket) -> None:
        self._refuse(ticket, DeadlineError("the deadline passed while the call waited for an instance"))
        self._notify()

    def _abandoned(self, ticket: Ticket, pending: asyncio.Future[Reply]) -> None:
        if not pending.cancelled():
            return
        self.counts.failed(Code.CANCELED)
        if ticket.running is not None:
            ticket.running.cancel()
        else:
            self._waiting.remove(ticket)
            self._notify()

    def _pump(self) -> None:
        """Gives idle instances to waiting calls."""
        pool = self._pool
        for _ in range(_BATCH):
            if not pool.idle:
                break
            ticket = self._waiting.take()
            if ticket is None:
                break
            self._serve(ticket)
        else:
            if pool.idle and self._waiting:
                asyncio.get_running_loop().call_soon(self._pump)
        self._grow()
        self._notify()

    def _serve(self, ticket: Ticket) -> None:
        self.counts.waits += 1
        self.counts.wait_us += int((self._clock.now() - ticket.since) * 1e6)
        instance = self._pool.take()
        scope = Scope(self.id, ticket.call, instance.home)
        call = ticket.call
        try:
            result = ticket.run(instance, call.payload, scope, call.deadline)
        except UnbegunError as error:
            self._again(ticket)
            self._leave(instance, scope, error, call)
            return
        except Exception as error:
            self._refuse(ticket, self._failed(instance, scope, error, call))
            return
        if not isinstance(result, bytes):
            self._follow(ticket, instance, scope, result)
            return
        self._leave(instance, scope)
        if not ticket.pending.done():
            ticket.pending.set_result(Reply(result, tuple(scope.headers), tuple(scope.trailers)))

    # Life

    async def start(self) -> None:
        """Starts the first instances: `min_instances`, at least one. Ready once all are up; the first failure is raised,
        and the service is stopped."""
        instances = self._instances
        instances.begin()
        while self._pool.living < instances.first and instances.start_error is None and self.state is State.STARTING:
            await self._change()
            instances.begin()
        if instances.start_error is not None:
            self.stop()
            raise instances.start_error
        if self.state is State.STOPPED:
            raise UnavailableError(f"{self.name} was stopped before it was ready")
        instances.state = move(self.state, State.READY)

    async def drain(self, timeout: float) -> bool:
        """Takes no new call, waits until those accepted are done, at most `timeout` seconds, then stops. Whether all of
        them finished."""
        if self.state in (State.READY, State.DEGRADED):
            self._instances.state = move(self.state, State.DRAINING)
        over = False

        def end() -> None:
            nonlocal over
            over = True
            self._notify()

        timer = self._clock.call_later(timeout, end)
        try:
            while not over and self.state is not State.STOPPED and (self._pool.busy or self._waiting):
                await self._change()
            if self._lives.ends:
                self._pool.retire()
            while not over and self.state is not State.STOPPED and self._pool.busy:
                await self._change()
        finally:
            timer.cancel()
        finished = not (self._pool.busy or self._waiting)
        self.stop()
        return finished

    def stop(self) -> None:
        """Ends everything now: what waits or runs fails with `unavailable`. Idempotent."""
        if self.state is State.STOPPED:
            return
        self._instances.state = move(self.state, State.STOPPED)
        stopped = UnavailableError(f"{self.name} was stopped", hint="try again", retry_after=1.0)
        for ticket in self._waiting.clear():
            self._refuse(ticket, stopped)
        for ticket in list(self._running):
            self._refuse(ticket, stopped)
            if ticket.running is not None:
                ticket.running.cancel()
        self._pool.close()
        self._notify()

    async def closed(self) -> None:
        """Returns once a stopped service has no instance left, running or on its way."""
        while self._pool.busy or self._pool.starting:
            await self._change()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
