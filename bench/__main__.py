"""`make bench`: unary Connect JSON through the real server beside a raw uvicorn app that answers a constant.

One process each, the same connections, rounds interleaved, so that a machine whose speed drifts slows both. The ratios
are what to quote; the absolute figures are this machine's, today.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from bench.load import Load, measure
from bench.running import free_port

PATH = "/examples.Greeter/greet"
BODY = b'{"name":"World"}'


@dataclass
class Subject:
    """One server under load and what its rounds gave."""

    name: str
    port: int
    process: psutil.Process
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def round(self, connections: int, seconds: float) -> None:
        """One round: requests a second, CPU us a request, latencies in ms."""
        before = self.process.cpu_times()
        load: Load = measure(self.port, PATH, BODY, connections, seconds)
        after = self.process.cpu_times()
        if load.failed:
            sys.exit(f"{self.name}: {load.failed} of {load.requests} requests failed; a figure would mean nothing")
        self.rate.append(load.requests / load.seconds)
        self.cpu.append((after.user + after.system - before.user - before.system) / load.requests * 1e6)
        self.p50.append(load.p50)
        self.p99.append(load.p99)

    def row(self) -> list[float]:
        """The medians."""
        return [statistics.median(values) for values in (self.rate, self.cpu, self.p50, self.p99)]


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until the greeter's path answers 200."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{PATH}", data=BODY, headers={"content-type": "application/json"}
    )
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"a server ended with {process.returncode} before it answered")
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                answer.read()
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    sys.exit("a server did not answer within 30 s")


@contextmanager
def running(name: str, port: int, command: list[str]) -> Iterator[Subject]:
    """A server in a process of its own, stopped at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        yield Subject(name, port, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    floor_port, port, admin_port = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        serve = [sys.executable, "-m", "insula", "serve", "--deploy", "greeter", "--data-dir", folder]
        serve += ["--port", str(port), "--admin-port", str(admin_port), "--log-level", "error"]
        floor_command = [sys.executable, "-m", "bench.constant", str(floor_port)]
        with running("uvicorn constant", floor_port, floor_command) as floor, running("insula", port, serve) as insula:
            for subject in (floor, insula):
                subject.round(options.connections, 1.0)
                for values in (subject.rate, subject.cpu, subject.p50, subject.p99):
                    values.clear()  # the first round warms up
            for _ in range(options.rounds):
                for subject in (floor, insula):
                    subject.round(options.connections, options.seconds)
    rows = {subject.name: subject.row() for subject in (floor, insula)}
    ratio = [ours / theirs for ours, theirs in zip(rows["insula"], rows["uvicorn constant"], strict=True)]
    if options.json:
        print(json.dumps({**rows, "ratio": ratio}))
        return
    client = "wrk" if shutil.which("wrk") else "the bench's own client (install wrk for a faster one)"
    rounds = f"{options.rounds} rounds of {options.seconds:g} s"
    print(f"\nunary Connect JSON, {options.connections} connections, {rounds}, {client}\n")
    print(f"{'':22}{'requests/s':>12}{'CPU us':>10}{'p50 ms':>10}{'p99 ms':>10}")
    for name, values in rows.items():
        print(f"{name:22}{values[0]:>12,.0f}{values[1]:>10.1f}{values[2]:>10.2f}{values[3]:>10.2f}")
    print(
        f"{'ratio':22}" + "".join(f"{value:>{width}.2f}" for value, width in zip(ratio, (12, 10, 10, 10), strict=True))
    )


if __name__ == "__main__":
    main()
