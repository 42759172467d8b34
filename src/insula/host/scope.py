"""What a host function sees beside its arguments: the call that it works for, and the instance that made it.

A `Scope` lasts for one entry into a guest: a call, an event, or a step in the life of an instance. A `Home` lasts as long
as the instance. Both have a place where a capability keeps what it needs for that long, and `on_end` for what must be
undone.

Policy of `on_end`
- A callback is plain and quick, and runs on the event loop, exactly once, however the scope or the home ends: an answer, a
  trap, a deadline, a client that left, a stop, a kill of the instance. The last that was added runs first.
- An error in one is logged; the others run all the same.
- One that is added after the end runs soon: the guest of a call that was given up may still be in a host function.
- There are at most `MAX_ENDINGS` at a time in a scope, and as many in a home. What `on_end` returns withdraws the callback,
  for what ended by itself.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from insula.calls import Call, Principal, ServiceId
from insula.errors import LimitError

log = logging.getLogger("insula.host")

MAX_ENDINGS = 1000

#: Held for a few steps while callbacks are added or taken: guests run in threads, and scopes end on the event loop.
_lock = threading.Lock()


class Phase(enum.Enum):
    """Why a guest was entered."""

    START = "start"
    CALL = "call"
    DRAIN = "drain"
    CLOSE = "close"


class _Endings:
    """Callbacks of one scope or home. `loop` is set by its end."""

    __slots__ = ("callbacks", "loop")

    def __init__(self) -> None:
        self.callbacks: dict[object, Callable[[], None]] = {}
        self.loop: asyncio.AbstractEventLoop | None = None

    def add(self, callback: Callable[[], None], what: str) -> Callable[[], None]:
        key = object()
        with _lock:
            loop = self.loop
            if loop is None:
                if len(self.callbacks) >= MAX_ENDINGS:
                    raise LimitError(f"{what} may hold at most {MAX_ENDINGS} things that are undone at its end")
                self.callbacks[key] = callback
        if loop is not None:
            try:
                loop.call_soon_threadsafe(_run, callback)
            except RuntimeError:  # the loop is closed
                _run(callback)
        return lambda: self.withdraw(key)

    def withdraw(self, key: object) -> None:
        with _lock:
            self.callbacks.pop(key, None)

    def end(self) -> None:
        with _lock:
            if self.loop is not None:
                return
            self.loop = asyncio.get_running_loop()
            callbacks, self.callbacks = self.callbacks, {}
        for callback in reversed(callbacks.values()):
            _run(callback)


def _run(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        log.exception("what a host function had left to be undone could not be")


class Home:
    """The lasting place of one instance, from before it starts until it has ended. `kept` has what capabilities keep for
    it, each under a key of its own."""

    __slots__ = ("_endings", "kept", "service")

    def __init__(self, service: ServiceId) -> None:
        self.service = service
        self.kept: dict[object, Any] = {}
        self._endings = _Endings()

    def on_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Runs `callback` when the instance has ended; what it returns withdraws it. LimitError, and nothing kept, at the
        bound."""
        return self._endings.add(callback, "an instance")

    def end(self) -> None:
        """The instance has ended. On the event loop; idempotent."""
        self._endings.end()
        self.kept.clear()


class Scope(msgspec.Struct, eq=False):
    """One entry into a guest, as host functions see it. It is used by the thread that runs the guest and, between its host
    calls, by the event loop: never by both at once.

    `call` is what the guest works for; in the life of an instance, one without a method, a principal and metadata.
    `headers` and `trailers` are what the guest set for its answer. `host_calls` is counted by the engine; while it is 0,
    nothing else here was touched. `kept` has what capabilities keep for so long, each under a key of its own.
    """

    service: ServiceId
    call: Call
    home: Home | None = None
    phase: Phase = Phase.CALL
    headers: list[tuple[str, str]] = []
    trailers: list[tuple[str, str]] = []
    host_calls: int = 0
    kept: dict[object, Any] | None = None
    endings: Any = None

    @property
    def principal(self) -> Principal | None:
        """Who calls, where that was proved."""
        return self.call.principal

    @property
    def deadline(self) -> float:
        """When the engine ends this entry, in seconds of `time.monotonic()`."""
        return self.call.deadline

    def keep(self, key: object, make: Callable[[], Any]) -> Any:
        """What is kept under `key`, made at first."""
        if self.kept is None:
            self.kept = {}
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def on_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Runs `callback` when this entry has ended; what it returns withdraws it. LimitError, and nothing kept, at the
        bound."""
        return self._ends().add(callback, "a call")

    def end(self) -> None:
        """This entry has ended. On the event loop; idempotent."""
        self._ends().end()

    def _ends(self) -> _Endings:
        endings: _Endings | None = self.endings
        if endings is None:
            with _lock:
                endings = self.endings
                if endings is None:
                    endings = self.endings = _Endings()
        return endings
