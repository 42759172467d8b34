"""Many services at rest: how much memory each takes, and how long a start with them takes.

Every service has a schema of its own (types, fields and methods with other names) and the same small module, so what is
measured is what a deployed service costs beside its compiled code. `python -m bench.many [N]`
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from bench.running import Running
from insula import examples
from insula.packages.config import read_config
from insula.packages.writer import write_package
from insula.schema.idl import parse_idl

IDL = """
@okra(namespace: "bench", version: "v1")

service Service{n} {{
  place{n}(input: Order{n}): Receipt{n}
  getOrder{n}(input: Key{n}): Order{n}
  listOrders{n}(input: Filter{n}): Page{n}
}}
type Order{n} {{ id: ID!  customer{n}: String!  total: Long  lines{n}: [Line{n}]  mood: Mood{n}  at: DateTime }}
type Line{n} {{ sku{n}: String!  count: Int!  price: Decimal }}
type Receipt{n} {{ id: ID!  note{n}: String }}
type Key{n} {{ id: ID! }}
type Filter{n} {{ customer{n}: String  limit: Int }}
type Page{n} {{ orders{n}: [Order{n}]  next: String }}
enum Mood{n} {{ HAPPY{n} SAD{n} }}
"""


def packages(folder: Path, count: int) -> list[Path]:
    """`count` packages with schemas of their own."""
    greeter = examples.find("greeter")
    assert greeter is not None
    with tarfile.open(greeter) as archive:
        member = archive.extractfile("service.wasm")
        assert member is not None
        wasm = member.read()
    made = []
    for n in range(count):
        idl = IDL.format(n=n)
        path = folder / f"{n}.okra.pkg"
        config = read_config(json.dumps({"name": f"Service{n}", "version": "1.0.0", "language": "c"}).encode())
        write_package(path, config=config, schema=parse_idl(idl), wasm=wasm, idl=idl)
        made.append(path)
    return made


def main() -> None:
    """Prints KB a service, and seconds to ready."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = packages(folder, count)
        server = Running(folder / "data")
        server.deploy(made[0])
        deploying = time.perf_counter()
        for number, package in enumerate(made[1:], 2):
            server.deploy(package)
            if number == 100:
                server.stop()
                server = Running(folder / "data")
                print(f"start to ready with 100 services installed: {server.seconds:.2f} s")
        print(f"a deploy, on average: {(time.perf_counter() - deploying) / (count - 1) * 1e3:.1f} ms")
        server.stop()
        empty = Running(folder / "empty")
        empty.deploy(made[0])
        empty.stop()
        empty = Running(folder / "empty")  # as the other: nothing but the services loaded
        base = empty.process.memory_info().rss
        empty.stop()
        server = Running(folder / "data")
        print(f"start to ready with {count} services installed: {server.seconds:.2f} s")
        for wait in (0, 130) if count >= 1000 else (0,):  # instances that nobody uses are gone after two idle times
            time.sleep(wait)
            used = server.process.memory_info().rss - base
            print(f"memory of a service, {wait} s later: {used / count / 1024:.1f} KB")
        server.stop()


if __name__ == "__main__":
    main()
