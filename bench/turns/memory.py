"""The bound on the memory of all guests together."""

from __future__ import annotations

from bench.turns.bench import Bench, load
from bench.turns.guests import FILL, call, module, package
from bench.turns.steps import HEAP_END

BOUND_MB = 300


def memory(bench: Bench, wasm: bytes, limits: dict[str, int], connections: int = 2) -> None:
    """Four services of the guest under a bound, and the most memory that the server had above what it begins with."""
    guests = [package(bench.folder, f"Grower{n}", wasm, limits=limits) for n in range(4)]
    server = bench.server(*guests, limits__guest_memory_mb=BOUND_MB)
    base = server.memory()
    with bench.watching(server):
        load = bench.start(server, *(call(f"Grower{n}") for n in range(4)), connections=4 * connections)
        probe = bench.probe(server).result()
        bench.made(load.result())
    bench.figure("guests had, MB", (server.peak - base) >> 20, BOUND_MB * 1.1, note=f"the bound is {BOUND_MB}")
    bench.neighbour(probe)


@load("memory-fill", f"four guests grow to 175 MB and fill them; they may have {BOUND_MB} together")
def fill(bench: Bench) -> None:
    size = (170 << 20) - HEAP_END
    body = "(drop (memory.grow (i32.const 2800)))" + FILL.format(at=HEAP_END, byte=1, size=size)
    memory(bench, module(body), {"memory_mb": 240, "timeout_ms": 10_000})


@load("memory-starts", f"four guests whose memory is 180 MB from the start, filled; they may have {BOUND_MB} together")
def starts(bench: Bench) -> None:
    body = FILL.format(at=HEAP_END, byte=1, size=(180 << 20) - HEAP_END)
    memory(bench, module(body, pages="2880"), {"memory_mb": 180, "timeout_ms": 10_000})


@load("memory-steps", f"four guests that grow by 1 MB at a time to 240 MB; they may have {BOUND_MB} together")
def steps(bench: Bench) -> None:
    body = """(local.set $n (memory.size)) (loop $more
      (if (i32.ne (i32.const -1) (memory.grow (i32.const 16))) (then
        (memory.fill (i32.shl (local.get $n) (i32.const 16)) (i32.const 1) (i32.const 1048576))
        (local.set $n (memory.size)) (br_if $more (i32.lt_u (local.get $n) (i32.const 4000))))))"""
    memory(bench, module(body), {"memory_mb": 240, "timeout_ms": 10_000})
