"""Many callers of a guest that burns a little or a lot of processor time a call, beside a quick service."""

from __future__ import annotations

import os
import time
from functools import cache, partial

import wasmtime

from bench.turns.bench import NEIGHBOUR, Bench, load
from bench.turns.guests import call, module, package


@cache
def rounds_a_ms() -> float:
    """How many rounds of a guest's loop take a millisecond here."""
    config = wasmtime.Config()
    config.epoch_interruption = True  # as the server has it
    store = wasmtime.Store(wasmtime.Engine(config))
    store.set_epoch_deadline(1 << 30)
    spin = wasmtime.Module(
        store.engine,
        """(module (func (export "spin") (param $rounds i64) (loop $more
        (br_if $more (i64.ne (i64.const 0) (local.tee $rounds (i64.sub (local.get $rounds) (i64.const 1))))))))""",
    )
    function = wasmtime.Instance(store, spin, []).exports(store)["spin"]
    assert isinstance(function, wasmtime.Func)
    rounds, spent = 10_000_000, []
    for _ in range(5):
        began = time.thread_time()
        function(store, rounds)
        spent.append(time.thread_time() - began)
    return rounds / min(spent) / 1e3


def spin(ms: float) -> str:
    """So much of a processor's time."""
    return f"(call $spin (i64.const {int(rounds_a_ms() * ms)}))"


def callers(ms: float, bench: Bench) -> None:
    guest = package(bench.folder, "Worker", module(spin(ms)), limits={"timeout_ms": 60_000})
    server = bench.server(guest)
    with bench.watching(server):
        load = bench.start(server, call("Worker"), connections=64)
        neighbour = bench.probe(server).result()
        bench.made(load.result())
    bench.neighbour(neighbour, NEIGHBOUR)
    both = 0.75 * max(0.5, min(2, os.cpu_count() or 1) - bench.strangers)  # of what others left
    bench.figure("cores used", bench.cores, both if ms >= 3 else None, least=True)


for _ms in (0.5, 1, 3, 10, 100):
    load(f"callers-{_ms:g}ms", f"64 callers of a guest that takes {_ms:g} ms of CPU a call")(partial(callers, _ms))
