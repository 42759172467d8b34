"""Many share the depot, or one has it alone."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from insula.deployments.gate import Gate


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_whoever_is_alone_is_alone(kinds: list[bool]) -> None:
    async def scenario() -> None:
        gate, inside = Gate(), {True: 0, False: 0}

        async def visit(alone: bool) -> None:
            async with gate.alone() if alone else gate.shared():
                inside[alone] += 1
                await asyncio.sleep(0)
                assert inside[True] <= 1
                assert not (inside[True] and inside[False])
                inside[alone] -= 1

        await asyncio.wait_for(asyncio.gather(*map(visit, kinds)), 5)
        assert inside == {True: 0, False: 0}

    asyncio.run(scenario())


async def test_one_that_is_cancelled_while_it_waits_or_is_inside_leaves_the_gate_open() -> None:
    gate = Gate()
    async with gate.shared():
        waiting = asyncio.create_task(_stay(gate, alone=True))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    staying = asyncio.create_task(_stay(gate, alone=True))
    await asyncio.sleep(0)
    staying.cancel()
    await asyncio.gather(staying, return_exceptions=True)
    async with asyncio.timeout(5), gate.alone():
        pass


async def _stay(gate: Gate, *, alone: bool) -> None:
    async with gate.alone() if alone else gate.shared():
        await asyncio.Event().wait()
