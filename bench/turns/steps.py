"""Steps of a guest, or for a guest, that nothing interrupts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.turns.bench import NEIGHBOUR, ONE_INSTRUCTION, TURN, Bench, load
from bench.turns.calls import spin
from bench.turns.client import Request
from bench.turns.guests import FILL, HOST, SCRATCH, WRITE, ask, call, data, module, package


def beside(
    bench: Bench,
    guest: Path,
    request: Request,
    *,
    connections: int = 1,
    aim: float = TURN,
    neighbour: float = NEIGHBOUR,
) -> None:
    """The guest under so many callers, and the greeter beside it."""
    server = bench.server(guest)
    with bench.watching(server, aim):
        load = bench.start(server, request, connections=connections)
        probe = bench.probe(server).result()
        bench.made(load.result())
    bench.neighbour(probe, neighbour)


def filling(mb: int) -> bytes:
    """Grows once, and touches all of it at each call."""
    pages = f"(i32.const {mb * 16})"
    grow = f"(if (i32.lt_u (memory.size) {pages}) (then (drop (memory.grow (i32.sub {pages} (memory.size))))))"
    return module(grow + FILL.format(at=HEAP_END, byte=7, size=(mb << 20) - HEAP_END))


HEAP_END = 1 << 21


@load("fill-1gb", "a guest that may have 1,024 MB fills 1,000 of them at each call")
def fill_large(bench: Bench) -> None:
    guest = package(bench.folder, "Filler", filling(1000), limits={"memory_mb": 1024, "timeout_ms": 20_000})
    beside(bench, guest, call("Filler"))


@load("fill-60mb", "a guest of the default size fills its 60 MB at each call: 50 ms once")
def fill_default(bench: Bench) -> None:
    beside(bench, package(bench.folder, "Filler", filling(60)), call("Filler"), aim=ONE_INSTRUCTION)


@load("fill-60mb-fresh", "the same, and each call ends its instance: all of the memory is new each time")
def fill_fresh(bench: Bench) -> None:
    wasm = module(
        "(drop (memory.grow (i32.const 928)))" + FILL.format(at=HEAP_END, byte=7, size=58 << 20) + "unreachable"
    )
    beside(bench, package(bench.folder, "Filler", wasm), call("Filler"), aim=ONE_INSTRUCTION)


def written(byte: int) -> bytes:
    """One fd_write of 64 KiB."""
    vector = "(i32.store (i32.const 512) (i32.const 65536)) (i32.store (i32.const 516) (i32.const 65536))"
    print_it = "(drop (call $write (i32.const 1) (i32.const 512) (i32.const 1) (i32.const 520)))"
    return module(FILL.format(at=SCRATCH, byte=byte, size=65_536) + vector + print_it, imports=WRITE)


def write(byte: int, bench: Bench) -> None:
    beside(bench, package(bench.folder, "Writer", written(byte)), call("Writer"))


for _name, _byte in (("newlines", 10), ("text", 97), ("binary", 255)):
    load(f"write-{_name}", f"fd_write of 64 KiB of {_name} at each call")(partial(write, _byte))


def asking(filler: str, head: str, tail: str, size: int = 10 << 20) -> bytes:
    """One host request of so many bytes, most of which are the filler again and again."""
    last = filler.rstrip(",")
    times = (size - len(head) - len(last + tail)) // len(filler)
    end = SCRATCH * 32 + len(head) + times * len(filler)
    body = f"""(memory.copy (i32.const {SCRATCH * 32}) (i32.const 4096) (i32.const {len(head)}))
      (call $repeat (i32.const {SCRATCH * 32 + len(head)}) (i32.const 4352) (i32.const {len(filler)}) (i32.const {times}))
      (memory.copy (i32.const {end}) (i32.const 4608) (i32.const {len(last + tail)}))"""
    total = len(head) + times * len(filler) + len(last + tail)
    more = data(4096, head) + data(4352, filler) + data(4608, last + tail)
    return module(body + ask(total, SCRATCH * 32), imports=HOST, pages="256", more=more)


TIME, STATE, LOG = '"okra.time","method":"now"', '"okra.state","method":"set"', '"okra.log","method":"info"'
REQUESTS = {
    "objects": ("{},", f'{{"api":{TIME},"parameters":{{"x":[', "]}}"),
    "text": ("a" * 16, f'{{"api":{TIME},"parameters":{{"x":"', '"}}'),
    "brackets": ("[", f'{{"api":{TIME},"parameters":{{"x":[', "]}}"),
    "state": ("1,", f'{{"api":{STATE},"parameters":{{"key":"k","value":[', "]}}"),
    "log": ("a" * 16, f'{{"api":{LOG},"parameters":{{"message":"', '"}}'),
}


def request(name: str, bench: Bench) -> None:
    apis = ("okra.time", "okra.state", "okra.log")
    wasm = asking(*REQUESTS[name])
    beside(bench, package(bench.folder, "Asker", wasm, apis=apis, limits={"timeout_ms": 20_000}), call("Asker"))


for _name in REQUESTS:
    load(f"request-{_name}", f"a host request of 10 MiB at each call: {_name}")(partial(request, _name))


@load("start-sparse", "each call ends its instance; a start writes a byte in each page of 60 MB")
def start_sparse(bench: Bench) -> None:
    more = "".join(data(at, "x") for at in range(HEAP_END, 60 << 20, 4096))
    guests = [package(bench.folder, f"Sparse{n}", module("unreachable", pages="1000", more=more)) for n in range(3)]
    server = bench.server()
    with bench.watching(server, name="longest turn of three deploys, ms"):
        for guest in guests:
            server.deploy(guest)
    with bench.watching(server):
        load = bench.start(server, *(call(f"Sparse{n}") for n in range(3)))
        probe = bench.probe(server).result()
        bench.made(load.result())
    bench.neighbour(probe)


@load("start-initialize", "each call ends its instance; a start runs for 30 ms")
def start_initialize(bench: Bench) -> None:
    more = f'(func (export "_initialize") {spin(30)})'
    beside(bench, package(bench.folder, "Slow", module("unreachable", more=more)), call("Slow"), connections=4)


@load("start-burst", "200 callers of a guest that sleeps 300 ms and ends its instance: 200 starts at a time")
def start_burst(bench: Bench) -> None:
    request = '{"api":"okra.time","method":"sleep","parameters":{"milliseconds":300}}'
    more = data(SCRATCH, request) + data(HEAP_END, "x" * 30_000)
    wasm = module(ask(len(request)) + "unreachable", imports=HOST, pages="64", more=more)
    guest = package(bench.folder, "Burst", wasm, apis=("okra.time",), limits={"max_instances": 256})
    beside(bench, guest, call("Burst"), connections=200)


@load("helper-allocate", "an `allocate` that loops until the deadline of 500 ms")
def helper_allocate(bench: Bench) -> None:
    guest = package(bench.folder, "Helper", module(allocate="(loop $for (br $for))"), limits={"timeout_ms": 500})
    beside(bench, guest, call("Helper"), connections=4)


@load("helper-allocate-20ms", "an `allocate` that takes 20 ms")
def helper_slow(bench: Bench) -> None:
    guest = package(bench.folder, "Helper", module(allocate=spin(20)), limits={"timeout_ms": 5000})
    beside(bench, guest, call("Helper"), connections=4)


@load("helper-deallocate", "a `deallocate` that loops until the deadline of 500 ms")
def helper_deallocate(bench: Bench) -> None:
    guest = package(bench.folder, "Helper", module(deallocate="(loop $for (br $for))"), limits={"timeout_ms": 500})
    beside(bench, guest, call("Helper"), connections=4)


@load("helper-answer", "an `allocate` that loops when the answer of a host call is to be written")
def helper_answer(bench: Bench) -> None:
    request = '{"api":"okra.time","method":"sleep","parameters":{"milliseconds":1}}'
    wasm = module(
        "(global.set $armed (i32.const 1))" + ask(len(request)),
        imports=HOST,
        allocate="(if (global.get $armed) (then (loop $for (br $for))))",
        more="(global $armed (mut i32) (i32.const 0))" + data(SCRATCH, request),
    )
    guest = package(bench.folder, "Helper", wasm, apis=("okra.time",), limits={"timeout_ms": 500})
    beside(bench, guest, call("Helper"), connections=4)


@load("index", "GET / with 10,000 methods deployed")
def index(bench: Bench) -> None:
    methods = " ".join(f"method{n}(): Text" for n in range(1000))
    guests = [package(bench.folder, f"Many{n}", module(), methods) for n in range(10)]
    server = bench.server(*guests)
    with bench.watching(server):
        load = bench.start(server, Request("/", method="GET"), connections=4)
        page = Request("/", method="GET", headers={"accept": "text/html"})
        other = bench.start(server, page, connections=2)
        probe = bench.probe(server).result()
        bench.made(load.result())
        bench.made(other.result())
    bench.neighbour(probe)
