"""Deploys, overrides, undeploys and `/metrics` beside load, with 300 services installed."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import httpx

from bench.many import packages
from bench.turns.bench import HEALTH, Bench, load
from bench.turns.client import Request
from bench.turns.guests import module, package
from bench.turns.watched import Watched

SERVICES = 300


@cache
def installed() -> Path:
    """A data folder with many services, made once."""
    folder = Path(tempfile.mkdtemp(prefix="turns-installed-"))
    server = Watched(folder, {}, ["greeter"])
    for made in packages(folder, SERVICES):
        server.deploy(made)
    server.stop()
    return folder / "data"


class Operator:
    """Deploys, overrides and undeploys in a thread."""

    def __init__(self, server: Watched, first: Path, second: Path, service: str) -> None:
        self.longest: dict[str, float] = {}
        self.failed: list[str] = []
        self._over = threading.Event()
        self._server, self._first, self._second, self._service = server, first, second, service
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        server = self._server
        while not self._over.is_set():
            acts: list[tuple[str, Callable[[], httpx.Response]]] = [
                ("deploy", partial(server.deploy, self._first)),
                ("override", partial(server.deploy, self._second, override="true")),
                ("undeploy", partial(server.undeploy, self._service)),
            ]
            for what, act in acts:
                began = time.monotonic()
                try:
                    answer = act()
                    if answer.status_code not in (200, 204):
                        self.failed.append(f"{what} {answer.status_code}")
                except httpx.HTTPError as error:
                    self.failed.append(f"{what} {type(error).__name__}")
                self.longest[what] = max(self.longest.get(what, 0.0), (time.monotonic() - began) * 1e3)

    def stop(self) -> None:
        """Ends them."""
        self._over.set()
        self._thread.join()


@load("deploys", f"deploy, override and undeploy beside {SERVICES} services, load and /metrics")
def deploys(bench: Bench) -> None:
    shutil.copytree(installed(), bench.folder / "server0" / "data")
    first, second = (package(bench.folder, "Fresh", module(), version=f"{n}.0.0") for n in (1, 2))
    server = bench.server(greeter=False)
    with bench.watching(server):
        rush = bench.start(
            server, Request("/examples.Greeter/greet", "eyJuYW1lIjoiV29ybGQifQ=="), connections=16, rate=2000
        )
        metrics = bench.start(server, Request("/metrics", method="GET"), connections=1, rate=5)
        operator = Operator(server, first, second, "bench.Fresh.v1")
        probe = bench.probe(server).result()
        operator.stop()
        scraped = metrics.result()
        bench.made(rush.result())
    bench.neighbour(probe)
    longest = ", ".join(f"{what} {ms:.0f} ms" for what, ms in operator.longest.items())
    bench.figure("changes that failed", len(operator.failed), 0, note=f"{longest} {operator.failed[:3] or ''}")
    bench.figure("scrapes that failed", scraped.failed, 0, note=f"of {scraped.requests}, p50 {scraped.p50:.0f} ms")


@load("metrics", f"/metrics beside {SERVICES} services")
def metrics(bench: Bench) -> None:
    shutil.copytree(installed(), bench.folder / "server0" / "data")
    server = bench.server(greeter=False)
    with bench.watching(server):
        scraping = bench.start(server, Request("/metrics", method="GET"), connections=2)
        health = bench.probe(server, Request("/health", method="GET"), rate=100)
        probe = bench.probe(server).result()
        bench.neighbour(health.result(), HEALTH, name="/health", by="most")
        bench.made(scraping.result())
    bench.neighbour(probe)
