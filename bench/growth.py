"""How the cost of a call grows: with the size of the body, the number of connections, and of services beside it.

`python -m bench.growth [SERVICES]` prints CPU microseconds of the server a request, which a busy machine changes less
than anything else. `--bodies` prints those of bodies alone, in half a minute: the medians of three interleaved rounds.
"""

from __future__ import annotations

import argparse
import atexit
import statistics
import sys
import tempfile
from pathlib import Path

from bench.load import measure
from bench.many import packages
from bench.running import Running

PATH = "/examples.Greeter/greet"
SECONDS = 3.0
SIZES = (10, 1_000, 10_000, 60_000, 250_000)
ROUNDS = 3


def cost(server: Running, size: int, connections: int, seconds: float = SECONDS) -> tuple[float, float, float]:
    """CPU us a request, requests a second, p99 in ms, for a name of `size` letters."""
    body = b'{"name":"' + b"x" * size + b'"}'
    measure(server.port, PATH, body, connections, 0.5)
    before = server.process.cpu_times()
    load = measure(server.port, PATH, body, connections, seconds)
    after = server.process.cpu_times()
    if load.failed:
        sys.exit(f"{load.failed} of {load.requests} requests failed")
    spent = after.user + after.system - before.user - before.system
    return spent / load.requests * 1e6, load.requests / load.seconds, load.p99


def show(what: str, figures: tuple[float, float, float]) -> None:
    """One row."""
    print(f"{what:28}{figures[0]:10.1f} us{figures[1]:12,.0f} /s   p99 {figures[2]:8.2f} ms")


def bodies(server: Running) -> None:
    """The first table, by medians of short rounds."""
    rounds = [[cost(server, size, 32, 1.0) for size in SIZES] for _ in range(ROUNDS)]
    for number, size in enumerate(SIZES):
        spent, rate, p99 = (statistics.median(row[number][of] for row in rounds) for of in range(3))
        show(f"a body of {size:,} bytes", (spent, rate, p99))


def main() -> None:
    """Prints the three tables, or the one of bodies."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("services", type=int, nargs="?", default=300)
    parser.add_argument("--bodies", action="store_true", help="only the sizes of bodies")
    options = parser.parse_args()
    services = options.services
    with tempfile.TemporaryDirectory() as name:
        server = Running(Path(name) / "data", "--deploy", "greeter")
        atexit.register(server.popen.kill)  # also where a figure cannot be had
        if options.bodies:
            bodies(server)
            server.stop()
            return
        for size in SIZES:
            show(f"a body of {size:,} bytes", cost(server, size, 32))
        for connections in (1, 8, 32, 128, 512, 2000):
            show(f"{connections:,} connections", cost(server, 10, connections))
        before = 1
        for count in (services // 10, services):
            for package in packages(Path(name), count)[before - 1 :]:
                server.deploy(package)
            before = count + 1
            show(f"beside {count:,} services", cost(server, 10, 32))
        server.stop()


if __name__ == "__main__":
    main()
