"""What wasmtime calls: nothing that is raised leaves it, and no guest yields with Python on its stack."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from insula.errors import InsulaError
from insula.wasm.contract import Engine
from tests.wasm.native.guests import HOST, Early, host, program, run
from tests.wasm.test_contract import Steps


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt, MemoryError])
async def test_nothing_that_is_raised_leaves_a_callback(engine: Engine, error: type[BaseException]) -> None:
    def fail(scope: Any, request: bytes) -> bytes:
        raise error("no")

    made = await program(
        engine,
        f'(module {HOST} (memory (export "memory") 1) (func (export "go") (drop (call $h (i32.const 0) (i32.const 0)))))',
        host(fail),
    )
    with pytest.raises(InsulaError, match="inside the server"):
        await run(made, Steps("go"))


async def test_a_helper_export_may_call_the_host_without_ending_the_process(engine: Engine) -> None:
    text = f"""(module {HOST} (memory (export "memory") 1)
      (func (export "allocate") (param i32) (result i32) (call $h (i32.const 0) (i32.const 0)))
      (func (export "go") (drop (call $h (i32.const 0) (i32.const 0)))))"""
    depth = 0

    def give(guest: Any, answer: bytes) -> tuple[int, ...]:
        nonlocal depth
        depth += 1
        return (guest.call("allocate", 1) if depth < 3 else 9,)

    made = await program(engine, text, host(lambda scope, request: b"", give))
    early = Early("allocate", 1)
    await run(made, early)
    assert early.got == 9
    assert depth == 4


async def test_a_guest_does_not_yield_with_the_interpreter_on_its_stack(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper under a host function runs over many slices: the fiber is suspended only once it is out of that."""
    monkeypatch.setattr("insula.wasm.instance.INLINE_CPU", 60.0)  # how long it may take is not the question here
    text = f"""(module {HOST} (memory (export "memory") 1)
      (func (export "allocate") (param i32) (result i32) (local $n i32)
        (loop (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 16000000))))
        (local.get $n))
      (func (export "go") (result i32) (call $h (i32.const 0) (i32.const 0))))"""
    made = await program(
        engine, text, host(lambda scope, request: b"", lambda guest, answer: (guest.call("allocate", 1),))
    )
    assert await asyncio.gather(*(run(made, Steps("go")) for _ in range(3))) == [b"16000000"] * 3
