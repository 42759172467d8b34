"""What the engine promises to the rooms above, whichever engine it is. The same tests run over every implementation.

An `Engine` compiles modules; a `Program` is one module linked to its host functions and limits, made once a deployed
generation; an `Instance` is one live copy of it with one owner at a time. How a method is called is an `Exchange`: three
steps that an ABI describes and the engine runs, inline, in a thread or on a fiber. Nothing above this room knows which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from insula.errors import GuestError, InsulaError
from insula.wasm.pace import Pace

#: Parameters and results of a type that are told by their names.
_MOST_NAMED = 24


class RefusalError(InsulaError):
    """What a guest answered, by the rules of its ABI, instead of an output. The guest is well and is used again: any other
    error out of an exchange ends its instance."""


class UnbegunError(InsulaError):
    """The guest was stopped before it saw the call: a helper export that prepared it took too long for the event loop. The
    instance is dead; the call may run on another one, and will in a worker."""


class OverranError(GuestError):
    """A helper export (allocate, deallocate) on the event loop is not done within its slice."""


class Guest(Protocol):
    """What an ABI sees of an instance. Every pointer and length is checked against the guest's memory here. `room_at` and
    `room` are the ABI's own to remember a buffer by: where the guest keeps it, and how many bytes it holds (-1 until there
    is one)."""

    room_at: int
    room: int

    def has(self, export: str) -> bool:
        """Whether the module exports a function of this name."""

    def call(self, export: str, *args: int) -> int:
        """Runs a small helper export (allocate, deallocate) to its end. Results are unsigned; of a void function, 0. It
        may neither sleep nor call a host function that has to wait: GuestError. OverranError where it holds the event loop
        for longer than a slice."""

    def retire(self) -> None:
        """Gives the instance up once this call has been answered: the guest is in no state to take another."""

    def read(self, pointer: int, size: int, limit: int | None = None) -> bytes:
        """A copy of guest memory. GuestError where any of it is outside, LimitError where it is over `limit` bytes (the
        output limit unless given)."""

    def write(self, pointer: int, data: bytes) -> None:
        """Writes into guest memory; GuestError where any of it would be outside."""

    def first_call(self, export: str, *args: int) -> int:
        """`call`, where it is the first of an exchange: what went before has no part in how the exchange fails."""

    def put_in(self, export: str, data: bytes, first: bool = False) -> int:
        """`call` of a helper export that makes room, for at least one byte, and `write` of the data there. Where it is; 0
        where the guest has no room, and nothing is written."""

    def drop(self, export: str, *pointers: int) -> None:
        """`call` of a helper export for one pointer after the other."""

    def shortage(self, what: str) -> InsulaError | None:
        """The `resource_exhausted` to raise where the guest fails by `what` after a growth of its memory was refused in
        the same exchange; None where none was."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A function type by the names of wasm's value types: `i32`, `i64`, `f32`, `f64`. As text: `(i32, i32) -> i64`, and the
    numbers alone where they are many."""

    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    def __str__(self) -> str:
        if len(self.params) + len(self.results) > _MOST_NAMED:
            return f"({len(self.params)} parameters) -> ({len(self.results)} results)"
        results = ", ".join(self.results)
        return f"({', '.join(self.params)}) -> {results if len(self.results) == 1 else f'({results})'}"


#: A host function: a request in, as `HostImport.take` made it, and the answer out, now or later. The first argument is the
#: scope of the entry under way. The plain part runs on the thread that runs the guest: it is quick, thread-safe and does no
#: I/O. An awaitable is run on the event loop, and never past the deadline of the entry.
HostFunction: TypeAlias = Callable[[Any, Any], "Any | Awaitable[Any]"]


class Scope(Protocol):
    """What the engine needs of the scope of an entry: it counts the host calls that are made there."""

    host_calls: int


@dataclass(frozen=True, slots=True)
class HostImport:
    """One function that a guest may import: `take` makes the request of the arguments and of what they point to, `function`
    answers it, `give` writes the answer back (it may call helper exports) and returns the import's results. A request is
    whatever the two agree on: bytes, or a tuple of texts and numbers. Where `take` gives None the request cannot be read:
    nothing is called, and every result is zero. An answer is of one of the types `answers`; with `NoneType` among them it
    may be None, for a null pointer or for a function without a result.

    `place`, where there is one, is another spelling of `give` for answers that are bytes: the helper export that makes room
    for so many (1 at least), and a function that writes the answer to the pointer it gave. An engine that knows it lets the
    guest take its time in that export, as in any other.

    `refuse` makes the answer where the engine refuses the call; without it the refusal ends the guest."""

    module: str
    name: str
    signature: Signature
    take: Callable[[Guest, tuple[int, ...]], Any]
    function: HostFunction
    give: Callable[[Guest, Any], tuple[int, ...]]
    place: tuple[str, Callable[[Guest, bytes, int], tuple[int, ...]]] | None = None
    answers: tuple[type, ...] = (bytes,)
    refuse: Callable[[InsulaError], Any] | None = None


class Exchange(Protocol):
    """How one method of a guest is called; made at deploy, without anything of a call in it. `begin` writes the input and
    gives the arguments of `export`, as unsigned numbers; the engine runs `export`; `finish` reads the result and frees what
    was allocated. All three raise InsulaError; after any but a RefusalError the instance is not used again, so they need
    not tidy up. `pace` is what the engine remembers of how long the calls take.

    `number`, where it is one, says that the exchange is of the plainest sort, and that the engine may go the short way: to
    write an input that the guest's `room` holds there, call `export` with this number and the input's length, and read the
    output where the result says (pointer in the upper half, length in the lower), unless that is 0 or has bit 63 set."""

    export: str
    pace: Pace

    @property
    def number(self) -> int | None: ...

    def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]: ...

    def finish(self, guest: Guest, args: tuple[int, ...], result: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class GuestLimits:
    """What one instance may use. `output_bytes` bounds each read of guest memory; `start_timeout` (s) bounds
    instantiation together with the initialiser; `host_calls` are made in one entry at most."""

    memory_bytes: int = 64 << 20
    output_bytes: int = 4 << 20
    table_elements: int = 20_000
    start_timeout: float = 10.0
    host_calls: int = 10_000


@dataclass(frozen=True, slots=True)
class WasiOptions:
    """What a guest sees through WASI preview 1. `write` gets each finished line of stdout and stderr (fd 1 or 2)."""

    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    write: Callable[[int, bytes], None] = lambda fd, line: None


class Module(Protocol):
    """A compiled module: immutable, shared by every program made of it. `memory_bytes`: what its memory begins with."""

    digest: str
    exports: Mapping[str, Signature]
    imports: Sequence[tuple[str, str]]
    has_memory: bool
    memory_bytes: int

    def close(self) -> None: ...


class Instance(Guest, Protocol):
    """One live instance. After any trap, exit or missed deadline `alive` is False and it is never entered again.
    `touched` and `home` are for the pool that keeps instances: whether it was used of late, and its lasting place."""

    alive: bool
    touched: bool
    home: Any

    def close(self) -> None:
        """Frees it; idempotent. An instance that a thread still runs is freed when that thread is done with it."""


#: See `Program.runner`.
Runner: TypeAlias = Callable[["Instance", bytes, Any, float], "bytes | asyncio.Future[bytes]"]


class Program(Protocol):
    """A module with its host functions, WASI and limits: what instances are made of. `calls_host`: whether its guests can
    call any of the functions, so that the scope of a call is ever looked at. `memory`: bytes that its instances have, and
    by which those that run may grow at present. `start_timeout`: seconds that a new instance has to come up."""

    calls_host: bool
    start_timeout: float

    @property
    def memory(self) -> int: ...

    def instantiate(self, scope: Scope | None = None) -> asyncio.Future[Instance]:
        """A new instance, its `_initialize` (where there is one) already run: `scope` is that of the host functions which
        that calls. Fails with InsulaError."""

    def runner(self, exchange: Exchange) -> Runner:
        """What runs this exchange: instance, input, scope and deadline in, the answer out. `deadline` is of
        `time.monotonic()`. The answer comes no later than that, or DeadlineError, even where the guest is deep in a loop,
        waits in a host call, or answers a moment later. Then, and when the future is cancelled, the instance is dead,
        unless the guest had answered, and its thread comes free as soon as the guest can be stopped. Other failures:
        GuestError for a trap or an exit, LimitError for either after its memory could not grow, RefusalError, UnbegunError,
        and any InsulaError that a host function raised. May raise at once: DeadlineError where the deadline has passed
        already, LimitError where the engine has no room; the instance is as good as before."""

    def close(self) -> None: ...


class Engine(Protocol):
    """Compiles and links. One an event loop; `close` ends its threads and its ticker."""

    async def load(self, wasm: Path, digest: str) -> Module:
        """The compiled module of a file whose sha256 is `digest`: from the cache, else compiled in a child process with
        bounded memory and time. PackageError where it is no valid module or takes too much to compile."""

    def link(
        self, module: Module, imports: Sequence[HostImport], limits: GuestLimits, wasi: WasiOptions, *, name: str = ""
    ) -> Program:
        """`name` is the tenant's, for messages. PackageError naming the import where the module wants one that nobody
        offers, or with another signature."""

    async def close(self) -> None: ...
