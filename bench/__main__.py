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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench import engine, six_calls
from bench.load import Load, measure
from bench.running import free_port

PATH = "/examples.Greeter/greet"
BODY = b'{"name":"World"}'


@dataclass
class Subject:
    """One server under load and what its rounds gave."""

    name: str
    port: int
    path: str
    process: psutil.Process
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def round(self, connections: int, seconds: float) -> None:
        """One round: requests a second, CPU us a request, latencies in ms."""
        before = self.process.cpu_times()
        load: Load = measure(self.port, self.path, BODY, connections, seconds)
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


def wait_for(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    """Until the path answers 200."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=BODY, headers={"content-type": "application/json"}
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
def running(name: str, port: int, path: str, command: list[str]) -> Iterator[Subject]:
    """A server in a process of its own, stopped at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(port, path, process)
        yield Subject(name, port, path, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--edge", action="store_true", help="also the edge alone, by both of its roads")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        subjects = [stack.enter_context(running(*subject)) for subject in commands(stack, options.edge)]
        for subject in subjects:
            subject.round(options.connections, 1.0)
            for values in (subject.rate, subject.cpu, subject.p50, subject.p99):
                values.clear()  # the first round warms up
        for _ in range(options.rounds):
            for subject in subjects:
                subject.round(options.connections, options.seconds)
    rows = {subject.name: subject.row() for subject in subjects}
    floor = rows["uvicorn constant"]
    ratios = {name: [ours / theirs for ours, theirs in zip(row, floor, strict=True)] for name, row in rows.items()}
    if options.json:
        print(json.dumps({**rows, "ratio": ratios["insula"], "ratios": ratios}))
        return
    client = "wrk" if shutil.which("wrk") else "the bench's own client (install wrk for a faster one)"
    rounds = f"{options.rounds} rounds of {options.seconds:g} s"
    print(f"\nunary Connect JSON, {options.connections} connections, {rounds}, {client}\n")
    print(f"{'':22}{'requests/s':>12}{'CPU us':>10}{'p50 ms':>10}{'p99 ms':>10}{'rate x':>10}{'CPU x':>8}")
    for name, (rate, cpu, p50, p99) in rows.items():
        times, share, *_ = ratios[name]
        print(f"{name:22}{rate:>12,.0f}{cpu:>10.1f}{p50:>10.2f}{p99:>10.2f}{times:>10.2f}{share:>8.2f}")
    engine.main()


def commands(stack: ExitStack, edge: bool) -> Iterator[tuple[str, int, str, list[str]]]:
    """Name, port, path and command of each server: the floor, Insula with the guest that `insula build` makes and with
    one of six calls, and, with `edge`, the edge without an engine."""
    port = free_port()
    yield "uvicorn constant", port, PATH, [sys.executable, "-m", "bench.constant", str(port)]
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    plain = six_calls.package(folder / "plain.okra.pkg")
    for name, path, package in (("insula", PATH, "greeter"), ("insula, six calls", six_calls.PATH, str(plain))):
        port = free_port()
        serve = [sys.executable, "-m", "insula", "serve", "--deploy", package, "--data-dir", str(folder / name)]
        ports = ["--port", str(port), "--admin-port", str(free_port())]
        yield name, port, path, [*serve, *ports, "--log-level", "error"]
    if edge:
        for road, handler in (("lane", "constant"), ("lane", "codec"), ("ordinary", "constant")):
            port = free_port()
            yield f"{road}, {handler}", port, PATH, [sys.executable, "-m", "bench.inline", str(port), road, handler]


if __name__ == "__main__":
    main()
