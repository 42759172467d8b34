"""The steps of a guest: a start, a whole exchange, and the rest of one. Each step is one poll."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from insula.wasm.contract import Exchange, OverranError, UnbegunError
from insula.wasm.faults import StoppedError
from insula.wasm.instance import LiveInstance

T = TypeVar("T")

#: The way of a guest: each step is one poll, the value at the end is the answer.
Steps = Generator[None, None, T]


def start_steps(instance: LiveInstance) -> Steps[LiveInstance]:
    """Makes the instance and runs its `_initialize`."""
    if instance.stopped:
        raise StoppedError
    instance.instantiate()
    while instance.poll() is None:
        yield
    instance.find_exports()
    instance.enter()
    if instance.has("_initialize") and instance.launch("_initialize", ()) is None:
        yield
        while instance.poll() is None:
            yield
    return instance


def run_steps(instance: LiveInstance, exchange: Exchange, payload: bytes) -> Steps[bytes]:
    """A whole exchange."""
    try:
        args = exchange.begin(instance, payload)
    except OverranError:
        raise unbegun() from None
    result = instance.launch(exchange.export, args)
    while result is None:
        yield
        result = instance.poll()
    return exchange.finish(instance, args, result)


def rest_steps(instance: LiveInstance, exchange: Exchange, args: tuple[int, ...]) -> Steps[bytes]:
    """The rest of an exchange, after its export was entered."""
    while (result := instance.poll()) is None:
        yield
    return exchange.finish(instance, args, result)


def unbegun() -> UnbegunError:
    """The error of a call that is to run again, on another instance."""
    return UnbegunError("the guest took too long to make room for the call", reason="helper")
