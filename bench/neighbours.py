"""One service burns CPU, another one answers: what the neighbour's callers feel. `python -m bench.neighbours`

Two callers keep a guest busy that spins for about two seconds a call, while a small service is under a light load. Prints
the latencies of the small one, alone and beside the burner.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.load import Load, measure
from bench.running import Running
from insula.build.project import build

IDL = """@okra(namespace: "bench", version: "v1")

service Burner {
  burn(): Spent
}
type Spent { rounds: Long! }
"""
SOURCE = """#include "service.gen.h"

static volatile uint64_t rounds;

insula_status Burner_burn(Spent *output) {
    for (uint64_t i = 0; i < 1000000000ull; i++) rounds++;
    output->rounds = (int64_t)rounds;
    return INSULA_OK;
}
"""
CALLER = """
import urllib.request
while True:
    request = urllib.request.Request("{url}", b"{{}}", {{"content-type": "application/json"}})
    try:
        urllib.request.urlopen(request, timeout=60).read()
    except OSError:
        pass
"""


def burner(folder: Path) -> Path:
    """The package of the service that spins."""
    folder.mkdir()
    config = {"name": "Burner", "version": "1.0.0", "language": "c", "source": "service.c"}
    (folder / "okra.json").write_text(json.dumps({**config, "limits": {"timeout_ms": 20_000}}))
    (folder / "service.okra.gql").write_text(IDL)
    (folder / "service.c").write_text(SOURCE)
    return build(folder).path


def light(server: Running) -> Load:
    """The small service under four connections."""
    return measure(server.port, "/examples.Greeter/greet", b'{"name":"World"}', 4, 5.0)


def main() -> None:
    """Prints both latencies."""
    with tempfile.TemporaryDirectory() as name:
        server = Running(Path(name) / "data", "--deploy", "greeter")
        server.deploy(burner(Path(name) / "burner"))
        alone = light(server)
        script = CALLER.format(url=f"http://127.0.0.1:{server.port}/bench.Burner/burn")
        callers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
        beside = light(server)
        for caller in callers:
            caller.kill()
            caller.wait()
        server.stop()
    for what, load in (("alone", alone), ("beside a burner", beside)):
        print(f"{what:18} p50 {load.p50:7.2f} ms   p99 {load.p99:7.2f} ms   {load.requests / load.seconds:9,.0f} /s")


if __name__ == "__main__":
    main()
