"""The time of a guest that is entered."""

from __future__ import annotations

import time

import pytest

from insula.errors import InsulaError
from insula.wasm.contract import Engine
from insula.wasm.engine import NativeEngine
from insula.wasm.machine import machine
from tests.wasm.floor import until
from tests.wasm.native.guests import HOST, Early, host, program, run
from tests.wasm.test_contract import Steps


async def test_a_guest_that_no_clock_was_set_for_runs_all_the_same(engine: Engine) -> None:
    made = await program(
        engine, '(module (memory (export "memory") 1) (func (export "go") (result i32) (i32.const 1)))'
    )
    instance = await made.instantiate()
    ticker = machine().ticker
    for _ in range(3):  # the epoch moves on: an old deadline would be over
        answer = made.runner(Steps("go"))(instance, b"", None, time.monotonic() + 5)
        assert (answer if isinstance(answer, bytes) else await answer) == b"1"
        over = ticker.epoch + 4
        await until(lambda over=over: ticker.epoch >= over)  # type: ignore[misc]
    instance.close()


@pytest.mark.parametrize("waits", [False, True])
async def test_a_helper_that_never_ends_does_not_hold_the_loop(engine: Engine, waits: bool) -> None:
    text = f"""(module {HOST if waits else ""} (memory (export "memory") 1) (func (export "go"))
      (func (export "allocate") (param i32) (result i32) (loop (br 0)) (i32.const 0)))"""
    made = await program(engine, text, *([host(lambda scope, request: b"")] if waits else []))
    steps = Early("allocate", 1)
    with pytest.raises(InsulaError):
        await run(made, steps, within=60.0)
    assert steps.pace.slow
    assert isinstance(engine, NativeEngine)
    instance = await made.instantiate()
    call = made.runner(steps)(instance, b"", None, time.monotonic() + 0.2)  # in a worker now
    assert not isinstance(call, bytes)
    with pytest.raises(InsulaError, match="in time"):
        await call
    assert await engine.schedule.idle(5.0)
