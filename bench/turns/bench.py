"""What a load has to work with: servers, clients, the watch, and the figures that it fills in."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.turns.client import Plan, Request, Result
from bench.turns.watched import HungError, Watched

#: Seconds from the start of a probe to its first request.
SETTLED = 0.5
TURN, ONE_INSTRUCTION, NEIGHBOUR, HEALTH = 10.0, 50.0, 20.0, 50.0  # ms

HEALTHY = Request("/health", method="GET")
GREET = Request("/examples.Greeter/greet", base64.b64encode(b'{"name":"World"}').decode())


@dataclass
class Figure:
    """A value and what it should be at most (`least`: at least); `note` is told beside it. No aim: only told."""

    name: str
    value: float
    aim: float | None = None
    least: bool = False
    note: str = ""

    @property
    def held(self) -> bool:
        """Whether the aim is reached; an infinite value stands for what hung or died."""
        return self.aim is None or (self.value >= self.aim if self.least else self.value <= self.aim)


@dataclass
class Load:
    """One load: `run` fills in a bench."""

    name: str
    what: str
    run: Callable[[Bench], None]


LOADS: dict[str, Load] = {}


def machine() -> float:
    """Processor seconds of everything on this machine, so far."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def processor() -> float:
    """Processor seconds of this process and all that it has started."""
    spent = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            spent += sum(child.cpu_times()[:4])
    return spent


def load(name: str, what: str) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Registers a load."""

    def register(run: Callable[[Bench], None]) -> Callable[[Bench], None]:
        LOADS[name] = Load(name, what, run)
        return run

    return register


class Client:
    """A client process."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=folder, delete=False) as file:
            json.dump(asdict(plan), file)
        self._patience = plan.wait + plan.seconds + plan.timeout + 30
        command = [sys.executable, "-m", "bench.turns.client", file.name]
        self._popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def result(self) -> Result:
        """Waits for its end."""
        try:
            out, _ = self._popen.communicate(timeout=self._patience)
            return Result(**json.loads(out))
        except (subprocess.TimeoutExpired, ValueError):
            self.kill()
            return Result(1, 0.0, float("inf"), float("inf"), float("inf"), 0, {"client": 1})

    def kill(self) -> None:
        """Ends it now."""
        self._popen.kill()
        self._popen.wait()


@dataclass
class Bench:
    """One run of one load. `seconds` is how long its clients run."""

    folder: Path
    seconds: float = 3.0
    stacks: bool = False
    ahead: bool = False
    figures: list[Figure] = field(default_factory=list)
    servers: list[Watched] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    def server(self, *packages: Path, greeter: bool = True, **flags: Any) -> Watched:
        """A server with these packages, and the greeter as their neighbour. `limits__threads` is limits.threads."""
        names = {name.replace("__", "."): value for name, value in flags.items()}
        server = Watched(
            self.folder / f"server{len(self.servers)}",
            names,
            ["greeter"] if greeter else [],
            stacks=self.stacks,
            ahead=self.ahead,
        )
        self.servers.append(server)
        for package in packages:
            answer = server.deploy(package)
            if answer.status_code != 200:
                raise HungError(f"deploy of {package.name}: {answer.status_code} {answer.text[:300]}")
        return server

    def figure(self, name: str, value: float, aim: float | None = None, *, least: bool = False, note: str = "") -> None:
        """Fills in a figure."""
        self.figures.append(Figure(name, value, aim, least, note))

    @contextmanager
    def watching(self, server: Watched, aim: float = TURN, name: str = "longest turn, ms") -> Iterator[None]:
        """The longest turn of what happens inside."""
        server.reset()
        cpu, own, all_, began = server.cpu(), processor(), machine(), time.monotonic()
        yield
        seconds = time.monotonic() - began
        self.cores = (server.cpu() - cpu) / seconds
        strangers = self.strangers = max(0.0, machine() - all_ - (processor() - own)) / seconds
        try:
            seen = server.read()
        except HungError as error:
            self.figure(name, float("inf"), aim, note=str(error))
            raise
        worst = seen["worst"][0] if seen["worst"] else {"cpu": 0.0, "where": ""}
        note = f"wall {seen['wall']:.0f}, cpu {worst['cpu']:.0f}, {seen['long']} over 10 ms, p99.9 {seen['p999']:.1f}"
        if strangers > 0.2:
            note += f", others took {strangers:.1f} cores"
        for turn in seen["worst"] if self.stacks else []:
            note += f"\n      {turn['own']:.0f} ms  {turn['where']}"
        self.figure(name, seen["own"], aim, note=note)

    def start(self, server: Watched, *requests: Request, **options: Any) -> Client:
        """A client that makes load, behind all others for the processors: it must not be what is measured."""
        plan = Plan(server.port, list(requests), **{"seconds": self.seconds + SETTLED, "nice": 10, **options})
        client = Client(plan, self.folder)
        self.clients.append(client)
        return client

    def probe(self, server: Watched, request: Request = GREET, *, rate: float = 300, **options: Any) -> Client:
        """A light client whose latencies are a figure: four callers, and first at the processors where that may be."""
        return self.start(
            server,
            request,
            **{
                "connections": 4,
                "rate": rate,
                "nice": -5,
                "ahead": self.ahead,
                "wait": SETTLED,
                "seconds": self.seconds,
                **options,
            },
        )

    def neighbour(self, result: Result, aim: float = NEIGHBOUR, *, name: str = "neighbour", by: str = "p99") -> None:
        """The latencies of a probe, and what was refused to it."""
        value = {"p99": result.p99, "most": result.most}[by]
        note = f"p50 {result.p50:.1f}, most {result.most:.0f}"
        self.figure(f"{by if by != 'most' else 'longest'} of {name}, ms", value, aim, note=note)
        if result.failed:
            self.figure(f"refused to {name}", result.failed, 0, note=f"of {result.requests}: {result.statuses}")

    def made(self, result: Result) -> None:
        """What the load itself came to: a load that was refused altogether measures nothing."""
        note = f"p50 {result.p50:.0f} ms, {result.statuses}"
        if result.largest > 1 << 20:
            note += f", answers of {result.largest >> 20} MB"
        self.figure("the load, requests/s", result.requests / max(result.seconds, 0.001), note=note)

    def close(self) -> None:
        """Ends all processes."""
        for client in self.clients:
            with suppress(OSError):
                client.kill()
        for server in self.servers:
            server.stop()


def run(load: Load, seconds: float, *, stacks: bool = False, ahead: bool = False) -> list[Figure]:
    """One run of a load: its figures, with one that is infinite where it hung or died."""
    with tempfile.TemporaryDirectory(prefix="turns-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), seconds, stacks, ahead)
        try:
            load.run(bench)
        except (HungError, httpx.HTTPError, psutil.Error, OSError) as error:
            bench.figure("ran to its end", 0, 1, least=True, note=f"{type(error).__name__}: {str(error)[:300]}")
        finally:
            bench.close()
        return bench.figures
