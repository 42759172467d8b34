"""The clock of slices: it goes while it is used, sleeps after, and is never missed."""

from __future__ import annotations

import queue
import threading

from insula.wasm.ticker import _PATIENCE, Ticker


class Slow:
    """A sleep that lasts until the test says so."""

    def __init__(self) -> None:
        self.asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.turns: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __call__(self, seconds: float) -> None:
        self.asked.put(None)
        self.turns.get(timeout=10)

    def turn(self) -> None:
        self.asked.get(timeout=10)
        self.turns.put(None)


def test_it_goes_while_it_is_used_and_then_sleeps() -> None:
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    slow = Slow()
    ticker = Ticker(tick, slow)
    assert ticker.asleep
    ticker.used = True
    ticker.wake()
    for _ in range(100):
        slow.turn()
        ticker.used = True
    slow.asked.get(timeout=10)  # it is about to tick again
    assert not ticker.asleep
    assert ticks == ticker.epoch == 100
    slow.turns.put(None)
    while not ticker.asleep:
        try:
            slow.asked.get(timeout=0.05)
        except queue.Empty:
            continue
        slow.turns.put(None)
    assert 90 + _PATIENCE < ticks < 110 + _PATIENCE
    assert [thread for thread in threading.enumerate() if thread.name == "insula-epoch"]
