"""Turns whose length is known, to see that the watch tells the truth: `python -m bench.turns --check`."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Awaitable, Callable

import uvloop

from bench.turns.server import Watch

BLOCK = 0.030


def burn(seconds: float) -> None:
    """So much processor time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def idle() -> None:
    """Nothing."""


async def work() -> None:
    """The loop computes."""
    burn(BLOCK)


async def blocked() -> None:
    """The loop waits for the system."""
    time.sleep(BLOCK)  # noqa: ASYNC251


async def interpreter() -> None:
    """Another thread holds the interpreter in one call of C."""
    data = list(range(1_000_000))
    data.reverse()
    until = time.monotonic() + 0.2

    def hold() -> None:
        while time.monotonic() < until:
            sum(data * 4)

    thread = threading.Thread(target=hold)
    thread.start()
    await asyncio.sleep(0.3)
    thread.join()


async def pieces() -> None:
    """Thirty callbacks of a millisecond in thirty turns."""
    for _ in range(30):
        burn(0.001)
        await asyncio.sleep(0)


async def one_turn() -> None:
    """Thirty callbacks of a millisecond in one turn."""
    for _ in range(30):
        asyncio.get_running_loop().call_soon(burn, 0.001)


def spin() -> None:
    """A stranger on the machine."""
    while True:
        pass


async def watch(case: Callable[[], Awaitable[None]]) -> dict[str, float]:
    """What the watch says of it."""
    watching = Watch()
    watching.start()
    await asyncio.sleep(0.3)
    watching.reset()
    await asyncio.sleep(0.2)
    await case()
    await asyncio.sleep(0.2)
    return watching.read()


def main() -> int:
    """1 where it does not tell the truth, alone or with strangers on all cores."""
    wrong = 0
    cases = (
        (idle, 0, 4),
        (work, 28, 34),
        (blocked, 28, 34),
        (interpreter, 8, 1000),
        (one_turn, 28, 34),
        (pieces, 0, 6),
    )
    for strangers in (0, 2 * (os.cpu_count() or 1)):
        processes = [multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(strangers)]
        for process in processes:
            process.start()
        print(
            f"\n{'beside ' + str(strangers) + ' busy processes' if strangers else 'alone':36}{'own':>8}{'wall':>8}   right"
        )
        for case, least, most in cases:
            seen = uvloop.run(watch(case))
            good = least <= seen["own"] <= most
            wrong += not good
            what = (case.__doc__ or "").rstrip(".")
            print(f"{what:60}{seen['own']:8.1f}{seen['wall']:8.1f}   {least} to {most}{'' if good else '  WRONG'}")
        for process in processes:
            process.kill()
    return int(wrong > 0)
