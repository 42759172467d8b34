"""Which exports can be entered, and with which numbers."""

from __future__ import annotations

import pytest

from insula.errors import GuestError
from insula.wasm.contract import Engine
from insula.wasm.engine import OwnedInstance
from insula.wasm.native.values import ROOM
from tests.wasm.native.guests import Early, program, run


@pytest.mark.parametrize("count", [ROOM + 1, 200])
async def test_a_signature_longer_than_the_buffers_is_refused(engine: Engine, count: int) -> None:
    params, results = " i32" * count, "(i32.const 1)" * count
    text = f"""(module (memory (export "memory") 1) (func (export "go"))
      (func (export "wide") (param{params})) (func (export "long") (result{params}) {results}))"""
    made = await program(engine, text)
    with pytest.raises(GuestError, match="cannot be called"):
        await run(made, Early("wide", *range(count)))
    with pytest.raises(GuestError, match="cannot be called"):
        await run(made, Early("long"))


async def test_other_numbers_of_arguments_and_other_types_are_refused(engine: Engine) -> None:
    made = await program(
        engine,
        """(module (memory (export "memory") 1) (func (export "go"))
             (func (export "two") (param i32 i32)) (func (export "float") (param f64)))""",
    )
    for wrong in (Early("two", 1), Early("two", 1, 2, 3), Early("float", 1), Early("none"), Early("memory")):
        with pytest.raises(GuestError):
            await run(made, wrong)


async def test_the_upper_half_of_a_short_value_is_masked(engine: Engine) -> None:
    made = await program(
        engine,
        """(module (memory (export "memory") 1) (func (export "go"))
             (func (export "long") (param i64) (result i64) (local.get 0))
             (func (export "short") (param i32) (result i32) (i32.const -1)))""",
    )
    instance = await made.instantiate()
    assert isinstance(instance, OwnedInstance)
    assert instance.call("long", 2**64 - 1) == 2**64 - 1
    assert instance.call("short", 7) == 2**32 - 1
    assert instance.launch("short", (2**63 + 7,)) == 2**32 - 1
    instance.close()
