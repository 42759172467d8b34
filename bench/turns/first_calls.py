"""Large legal schemas: their deploy, and the first call of each method in JSON and in protobuf."""

from __future__ import annotations

import time
from functools import partial

from bench.turns.bench import HEALTH, HEALTHY, SETTLED, Bench, load
from bench.turns.guests import call, module, package

SORTS = ("Int!", "String!", "Long", "DateTime", "[String!]", "Double!", "Boolean", "Bytes", "[Long!]", "Decimal")


def fields(count: int, other: str = "") -> str:
    """Fields of every sort, each tenth of another type where there is one."""
    return " ".join(
        f"field{n}: {other}" if other and n % 10 == 9 else f"field{n}: {SORTS[n % len(SORTS)]}" for n in range(count)
    )


#: Each type has the next in it, so that a codec of one is a codec of all.
CHAINED = " ".join(f"type Type{n} {{ {fields(20, f'Type{n + 1}' if n < 199 else '')} }}" for n in range(200))
WIDE = f"type Type0 {{ {fields(990)} }}"
MANY = " ".join(f"type Type{n} {{ {fields(900)} }}" for n in range(20))

SCHEMAS = {
    "chained": ("200 types of 20 fields, each within the one before", CHAINED, [f"Type{n}" for n in range(0, 200, 20)]),
    "wide": ("one type with 990 fields", WIDE, ["Type0"] * 4),
    "many": ("20 types of 900 fields", MANY, [f"Type{n}" for n in range(20)]),
}


def first_calls(types: str, inputs: list[str], bench: Bench) -> None:
    idl = " ".join(f"run{n}(input: {kind}): {kind}" for n, kind in enumerate(inputs))
    server = bench.server()
    guest = package(bench.folder, "Large", module(answer="{}"), idl, types=types)
    with bench.watching(server, name="longest turn of the deploy, ms"):
        health = bench.probe(server, HEALTHY, rate=100)
        time.sleep(SETTLED)
        answer = server.deploy(guest)
        if answer.status_code != 200:
            bench.figure("deployed", 0, 1, least=True, note=answer.text[:200])
        health.result()
    for kind, empty in (("json", b"{}"), ("proto", b"")):
        calls = [call("Large", f"run{n}", empty, content_type=f"application/{kind}") for n in range(len(inputs))]
        with bench.watching(server, name=f"longest turn of first calls in {kind}, ms"):
            probe = bench.probe(server, HEALTHY, rate=100)
            time.sleep(SETTLED)
            result = bench.start(server, *calls, count=len(calls), timeout=20, seconds=20).result()
            health_then = probe.result()
        bench.made(result)
        bench.neighbour(health_then, HEALTH, name=f"/health beside {kind}", by="most")


for _name, (_what, _types, _inputs) in SCHEMAS.items():
    load(f"first-{_name}", f"deploy and first calls: {_what}")(partial(first_calls, _types, _inputs))
