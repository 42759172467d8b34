"""The end of what a guest waits for: it is cancelled or dropped, and no coroutine is left that was never awaited."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from insula.errors import UnavailableError


def cancelled() -> bytes:
    """The outcome of a host function that the host gave up."""
    raise UnavailableError("the host cancelled what the guest waited for")


def discard(awaitable: object) -> None:
    """Drops an awaitable that nobody will await. A coroutine is closed, so that it does not warn that it never was."""
    if inspect.iscoroutine(awaitable):
        _close_arguments(awaitable)
        awaitable.close()


def give_up(waiting: asyncio.Future[Any] | asyncio.TimerHandle) -> None:
    """Cancels what a guest waits for."""
    if isinstance(waiting, asyncio.Task):
        _close_arguments(waiting.get_coro())
    waiting.cancel()


def _close_arguments(coroutine: Any) -> None:
    """Closes the coroutines among the arguments of one that has not begun: it would have awaited them."""
    if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        for argument in inspect.getcoroutinelocals(coroutine).values():
            discard(argument)
