"""What more cores give: `python -m bench.cores`. On Linux.

The server on one core of the machine, on two, and so on, under calls that are quick (the greeter), and under calls that
burn some thirty milliseconds each. The load runs on whatever is there, and beside a quick service takes as much as it.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from bench.load import measure
from bench.running import Running
from insula.build.project import build

IDL = """@okra(namespace: "bench", version: "v1")

service Worker {
  work(): Spent
}
type Spent { rounds: Long! }
"""
SOURCE = """#include "service.gen.h"

static volatile uint64_t rounds;

insula_status Worker_work(Spent *output) {
    for (uint64_t i = 0; i < 60000000ull; i++) rounds++;
    output->rounds = (int64_t)rounds;
    return INSULA_OK;
}
"""


def worker(folder: Path) -> Path:
    """The package of the service that works."""
    folder.mkdir()
    config = {"name": "Worker", "version": "1.0.0", "language": "c", "source": "service.c"}
    (folder / "okra.json").write_text(json.dumps(config))
    (folder / "service.okra.gql").write_text(IDL)
    (folder / "service.c").write_text(SOURCE)
    return build(folder).path


def main() -> None:
    """Prints requests a second of each by the number of cores."""
    all_cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as name:
        package = worker(Path(name) / "worker")
        for count in range(1, len(all_cores) + 1):
            os.sched_setaffinity(0, sorted(all_cores)[:count])  # the server takes it over
            server = Running(Path(name) / f"data{count}", "--deploy", "greeter")
            os.sched_setaffinity(0, all_cores)
            server.deploy(package)
            quick = measure(server.port, "/examples.Greeter/greet", b'{"name":"World"}', 32, 3.0)
            measure(server.port, "/bench.Worker/work", b"{}", 8, 1.0)
            slow = measure(server.port, "/bench.Worker/work", b"{}", 8, 4.0)
            server.stop()
            print(
                f"{count} cores   quick calls {quick.requests / quick.seconds:9,.0f} /s"
                f"   calls that work {slow.requests / slow.seconds:7,.1f} /s   p99 {slow.p99:7.1f} ms"
            )


if __name__ == "__main__":
    main()
