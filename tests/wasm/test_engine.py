"""How many instances may live."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from insula.errors import LimitError
from insula.wasm.engine import NativeEngine, NativeProgram
from tests.wasm.native.guests import HOST, host, program
from tests.wasm.test_contract import Steps


async def test_there_are_as_many_instances_as_there_is_room_for(cache: Path) -> None:
    engine = await NativeEngine.open(cache, instances=3)
    made = await program(engine, '(module (memory (export "memory") 1) (func (export "go")))')
    other = await program(engine, '(module (memory (export "memory") 1) (func (export "go") (drop (i32.const 1))))')
    instances = [await made.instantiate() for _ in range(2)]
    with pytest.raises(LimitError, match="its share of 3") as caught:
        made.instantiate()
    assert caught.value.reason == "instances"
    (await other.instantiate()).close()
    instances.pop().close()
    (await made.instantiate()).close()
    await engine.close()


async def test_every_instance_that_may_live_can_be_run(cache: Path) -> None:
    """An instance keeps the stack of its last fiber, and one more of a helper under a host function."""
    engine = await NativeEngine.open(cache)
    text = f"""(module {HOST} (memory (export "memory") 1)
      (func (export "allocate") (param i32) (result i32) (i32.const 8))
      (func (export "go") (result i32) (call $h (i32.const 0) (i32.const 0))))"""
    waits = host(lambda scope, request: asyncio.sleep(0, b""), lambda guest, answer: (guest.call("allocate", 1),))
    programs = [await program(engine, text, waits) for _ in range(8)]
    instances = []
    for made in programs:
        assert isinstance(made, NativeProgram)
        while engine.room.has_room(made):
            instances.append(await made.instantiate())
            answer = made.runner(Steps("go"))(instances[-1], b"", None, time.monotonic() + 60)
            assert (answer if isinstance(answer, bytes) else await answer) == b"8"
    assert len(instances) > engine.most_instances * 7 // 8
    await engine.close()
