"""Queues, pools and budgets that one service takes: what is left to another one, and to the server itself."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import httpx

from bench.turns.bench import Bench, load
from bench.turns.calls import spin
from bench.turns.guests import FILL, HOST, SCRATCH, ask, call, data, module, package
from bench.turns.steps import HEAP_END
from bench.turns.watched import Watched

SET = '{"api":"okra.state","method":"set","parameters":{"key":"k","value":1}}'
SLEEP = '{"api":"okra.time","method":"sleep","parameters":{"milliseconds":20000}}'
MANY = {"max_instances": 1024, "mailbox": 4096, "timeout_ms": 30_000}


def asks(request: str, before: str = "") -> bytes:
    """A guest that makes this host request at each call."""
    return module(before + ask(len(request)), imports=HOST, pages="33", more=data(SCRATCH, request))


class Deploys:
    """A package deployed over itself, again and again, in a thread."""

    def __init__(self, server: Watched, *packages: Path) -> None:
        self.statuses: dict[str, int] = {}
        self.times: list[float] = []
        self._server, self._packages = server, packages
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        turn = 0
        while not self._over.is_set():
            began = time.monotonic()
            try:
                package = self._packages[turn % len(self._packages)]
                status = str(self._server.deploy(package, override="true").status_code)
            except httpx.HTTPError as error:
                status = type(error).__name__
            self.times.append((time.monotonic() - began) * 1e3)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            turn += 1
            self._over.wait(0.02)

    def stop(self, bench: Bench) -> None:
        """Ends them, and fills in how many were refused."""
        self._over.set()
        self._thread.join()
        refused = len(self.times) - self.statuses.get("200", 0)
        note = f"of {len(self.times)}: {self.statuses}, longest {max(self.times):.0f} ms"
        bench.figure("deploys refused", refused, 0, note=note)


@load("queue-state", "1,600 callers of two services that write state, another's writes and deploys beside it")
def state(bench: Bench) -> None:
    limits = {**MANY, "max_instances": 700}
    greedy = [package(bench.folder, f"Greedy{n}", asks(SET), apis=("okra.state",), limits=limits) for n in range(2)]
    modest = package(bench.folder, "Modest", asks(SET), apis=("okra.state",))
    other = package(bench.folder, "Other", module())
    server = bench.server(*greedy, modest)
    with bench.watching(server):
        load = bench.start(server, call("Greedy0"), call("Greedy1"), connections=1600, seconds=bench.seconds + 2)
        time.sleep(1)
        deploys = Deploys(server, other)
        writes = bench.probe(server, call("Modest"), rate=40)
        probe = bench.probe(server).result()
        result = writes.result()
        deploys.stop(bench)
        bench.made(load.result())
    bench.neighbour(probe)
    answered = sum(result.statuses.get(status, 0) for status in ("200",))
    bench.figure("writes of the other refused", result.requests - answered, 0, note=f"{result.statuses}")


@load("queue-fibers", "two services whose 1,024 guests each sleep, and a third service")
def fibers(bench: Bench) -> None:
    sleepers = [package(bench.folder, f"Sleeper{n}", asks(SLEEP), apis=("okra.time",), limits=MANY) for n in range(2)]
    third = package(bench.folder, "Third", asks(SLEEP.replace("20000", "1")), apis=("okra.time",))
    server = bench.server(*sleepers, third)
    with bench.watching(server):
        for n in range(2):
            bench.start(server, call(f"Sleeper{n}"), connections=1100, count=1100, timeout=30)
        time.sleep(2)
        other = bench.probe(server, call("Third"), rate=100)
        probe = bench.probe(server).result()
        waits = other.result()
    bench.neighbour(probe)
    bench.neighbour(waits, 50, name="a third that waits 1 ms")


def dead(count: int, bench: Bench) -> None:
    """`count` services loop."""
    loops = module("(loop $for (br $for))")
    loopers = [package(bench.folder, f"Looper{n}", loops, limits={"timeout_ms": 15_000}) for n in range(count)]
    fill = FILL.format(at=HEAP_END, byte=1, size=5 << 20)
    wasm = module(
        "(drop (memory.grow (i32.const 96)))" + fill + ask(len(SLEEP)),
        imports=HOST,
        pages="33",
        more=data(SCRATCH, SLEEP),
    )
    dying = package(
        bench.folder, "Dying", wasm, apis=("okra.time",), limits={**MANY, "max_instances": 240, "timeout_ms": 3000}
    )
    server = bench.server(*loopers, dying)
    before = server.memory()
    with bench.watching(server):
        bench.start(server, call("Dying"), connections=240, count=240, rate=200)
        time.sleep(2)
        for n in range(count):
            callers = 1 if count == 1 else 8
            bench.start(server, call(f"Looper{n}"), connections=callers, count=callers, timeout=20)
        probe = bench.probe(server).result()
        time.sleep(max(0.0, 5.2 - bench.seconds))
        now = server.memory()
    bench.figure(
        "memory still held 3 s after they died, MB", (now - before) >> 20, 100, note=f"peak {server.peak >> 20}"
    )
    bench.neighbour(probe)


load("queue-dead-one", "240 instances of 5 MB that die at their deadline, while one guest loops")(partial(dead, 1))
load("queue-dead", "240 instances of 5 MB that die at their deadline, while guests hold all threads")(partial(dead, 4))


@load("queue-threads", "four services that spin on all threads, and a fifth's method of 30 ms")
def threads(bench: Bench) -> None:
    spins = [package(bench.folder, f"Spinner{n}", module(spin(2000)), limits={"timeout_ms": 60_000}) for n in range(4)]
    fifth = package(bench.folder, "Fifth", module(spin(30)), limits={"timeout_ms": 60_000})
    server = bench.server(*spins, fifth)
    with bench.watching(server):
        for n in range(4):
            bench.start(server, call(f"Spinner{n}"), connections=8, timeout=60, seconds=bench.seconds + 1)
        time.sleep(0.5)
        slow = bench.probe(server, call("Fifth"), connections=1, rate=4)
        probe = bench.probe(server).result()
        result = slow.result()
    bench.neighbour(probe)
    bench.neighbour(result, 500, name="the fifth's 30 ms method", by="most")


@load("queue-backlog", "two services with 2,000 slow calls waiting, and another service's slow calls")
def backlog(bench: Bench) -> None:
    limits = {"timeout_ms": 60_000, "max_instances": 1024, "mailbox": 4096}
    greedy = [package(bench.folder, f"Greedy{n}", module(spin(20), pages="17"), limits=limits) for n in range(2)]
    other = package(bench.folder, "Other", module(spin(20)), limits={"timeout_ms": 60_000})
    server = bench.server(*greedy, other)
    bench.start(server, call("Other"), count=8).result()  # from now on it is known to be slow
    with bench.watching(server):
        bench.start(server, call("Greedy0"), call("Greedy1"), connections=2000, timeout=60)
        time.sleep(2)
        slow = bench.probe(server, call("Other"), connections=2, rate=10)
        probe = bench.probe(server).result()
        result = slow.result()
    bench.neighbour(probe)
    bench.neighbour(result, 500, name="the other's 20 ms method", by="most")
