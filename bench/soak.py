"""Half load for a long time, beside guests that do what they should not: does memory stay flat?

`python -m bench.soak [MINUTES]`. A small service is kept at half of what it can do; beside it another one loops for ever,
takes all its memory, overflows its stack and traps, over and over, and is deployed anew every ten seconds. Prints what the
server's process takes every half minute; at the end the medians of the second minute and of the last, what failed, and
how many file descriptors and threads came on top.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from bench.load import measure
from bench.running import Running
from insula.build.project import build

PATH = "/examples.Greeter/greet"
BODY = '{"name":"World"}'
IDL = """@okra(namespace: "bench", version: "v1")

service Torture {
  loop(): Done
  bomb(): Done
  overflow(): Done
  trap(): Done
}
type Done { value: Int! }
"""
SOURCE = """#include "service.gen.h"
#include <stdlib.h>
#include <string.h>

static volatile uint32_t spins;

__attribute__((noinline)) static int deeper(int n) {
    volatile char room[256];
    room[n % 256] = (char)n;
    return deeper(n + 1) + room[n % 256];
}

insula_status Torture_loop(Done *output) { for (;;) spins++; return INSULA_OK; }
insula_status Torture_bomb(Done *output) {
    for (;;) { char *p = malloc(1 << 20); if (!p) __builtin_trap(); memset(p, 1, 1 << 20); spins += p[spins % 999]; }
    return INSULA_OK;
}
insula_status Torture_overflow(Done *output) { output->value = deeper(1); return INSULA_OK; }
insula_status Torture_trap(Done *output) { __builtin_trap(); }
"""
TORTURER = """
import itertools, urllib.error, urllib.request
for method in itertools.cycle(("loop", "bomb", "overflow", "trap")):
    request = urllib.request.Request("{url}/bench.Torture/" + method, b"{{}}", {{"content-type": "application/json"}})
    try:
        urllib.request.urlopen(request, timeout=60).read()
        raise SystemExit(method + " answered")
    except urllib.error.HTTPError as error:
        error.read()
    except OSError:
        pass
"""
STEADY = """
import json, sys, uvloop
from bench.load import drive
load = uvloop.run(drive({port}, {path!r}, {body!r}.encode(), 16, {seconds}, {rate}))
print(json.dumps(load.__dict__))
"""


def torture(folder: Path, timeout_ms: int) -> Path:
    """A package of the guest that misbehaves; another limit makes another package."""
    folder.mkdir()
    limits = {"timeout_ms": timeout_ms, "memory_mb": 32}
    config = {"name": "Torture", "version": "1.0.0", "language": "c", "source": "service.c", "limits": limits}
    (folder / "okra.json").write_text(json.dumps(config))
    (folder / "service.okra.gql").write_text(IDL)
    (folder / "service.c").write_text(SOURCE)
    return build(folder).path


def redeploy(server: Running, package: Path) -> None:
    """Puts a package in the place of what is there."""
    url = f"http://127.0.0.1:{server.admin_port}/api/v1/packages/deploy?override=true"
    request = urllib.request.Request(url, package.read_bytes(), {"content-type": "application/gzip"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def main() -> None:
    """Runs the soak and prints what it saw."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seconds = minutes * 60
    with tempfile.TemporaryDirectory() as name:
        server = Running(Path(name) / "data", "--deploy", "greeter")
        packages = [torture(Path(name) / str(n), 200 + n) for n in range(2)]
        redeploy(server, packages[0])
        full = measure(server.port, PATH, BODY.encode(), 16, 3.0)
        rate = full.requests / full.seconds / 2
        print(f"half load is {rate:,.0f} requests a second")
        steady = STEADY.format(port=server.port, path=PATH, body=BODY, seconds=seconds, rate=rate)
        command = [sys.executable, "-c", steady]
        load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        url = f"http://127.0.0.1:{server.port}"
        torturers = [subprocess.Popen([sys.executable, "-c", TORTURER.format(url=url)]) for _ in range(2)]
        taken: list[tuple[float, int]] = []
        started = time.monotonic()
        before = server.process.num_fds(), server.process.num_threads()
        turn = 0
        while load.poll() is None:
            time.sleep(10 if seconds > 60 else 2)
            turn += 1
            redeploy(server, packages[turn % 2])
            passed = time.monotonic() - started
            taken.append((passed, server.process.memory_info().rss))
            if turn % 3 == 0:
                print(f"{passed:6.0f} s   {taken[-1][1] / (1 << 20):8.1f} MiB", flush=True)
        assert load.stdout is not None
        answered = json.loads(load.stdout.read())
        for torturer in torturers:
            torturer.kill()
            torturer.wait()
        after = server.process.num_fds(), server.process.num_threads()
        server.stop()
    early = statistics.median(rss for passed, rss in taken if passed <= seconds / 5)
    late = statistics.median(rss for passed, rss in taken if passed >= seconds * 4 / 5)
    print(
        f"memory, first and last fifth: {early / (1 << 20):.1f} and {late / (1 << 20):.1f} MiB ({late / early - 1:+.1%})"
    )
    print(f"descriptors {before[0]} and {after[0]}, threads {before[1]} and {after[1]}")
    print(f"{answered['requests']:,} calls answered, {answered['failed']} failed, p99 {answered['p99']:.1f} ms")


if __name__ == "__main__":
    main()
