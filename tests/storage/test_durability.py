"""An acknowledged write survives a kill -9 at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import random
from multiprocessing.connection import Connection
from typing import Any

from insula.storage.database import Database
from insula.storage.deployments import DeploymentRepository
from insula.storage.guest_state import StateRepository

ROUNDS = 15

#: Forks a process for each round that has everything imported and nothing begun.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.storage.test_durability", "psycopg"])


async def _write(url: str, round_: int, out: Connection) -> None:
    """Many writers at once, for ever. A note is sent for each write that was acknowledged."""
    db = await Database.open(url)
    state, deployments = StateRepository(db), DeploymentRepository(db, "d" * 32)

    async def count(writer: int) -> None:
        while True:
            out.send(("counted", writer, await state.increment(f"shop.S{writer}.v1", "n")))

    async def deploy() -> None:
        for number in itertools.count():
            digest = f"r{round_}-{number}"
            await deployments.put("shop.A.v1", digest, "1", "s", "t")
            out.send(("deployed", digest))

    await asyncio.gather(deploy(), *(count(writer) for writer in range(8)))


def _main(url: str, round_: int, out: Connection) -> None:
    asyncio.run(_write(url, round_, out))


async def test_acknowledged_writes_survive_being_killed(url: str) -> None:
    chance = random.Random(7)
    totals: dict[int, int] = {}
    digests: list[str] = []
    for round_ in range(ROUNDS):
        for note in await asyncio.to_thread(_run_and_kill, url, round_, chance.randrange(1, 120)):
            if note[0] == "counted":
                totals[note[1]] = note[2]
            else:
                digests.append(note[1])

        db = await Database.open(url)
        state, deployments = StateRepository(db), DeploymentRepository(db, "d" * 32)
        for writer, total in totals.items():
            value = await state.get(f"shop.S{writer}.v1", "n")
            assert value is not None
            # What was committed and not yet acknowledged when the process died may be there too: one for each writer.
            assert total <= int(value.data) <= total + 1
            assert value.version == int(value.data)
            totals[writer] = int(value.data)
        if digests:
            (row,) = await deployments.all()
            stack = [row.digest, *(before.digest for before in await deployments.previous("shop.A.v1"))]
            assert digests[-1] in stack[:2]
        await db.close()
    assert len(totals) == 8
    assert digests


def _run_and_kill(url: str, round_: int, after: int) -> list[tuple[Any, ...]]:
    """The notes of a process that was killed after it had sent so many, with those that were on their way."""
    inlet, outlet = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_main, args=(url, round_, outlet))
    process.start()
    outlet.close()
    notes = [inlet.recv() for _ in range(after)]
    process.kill()
    process.join()
    with contextlib.suppress(EOFError, OSError):
        while True:
            notes.append(inlet.recv())
    inlet.close()
    process.close()
    return notes
