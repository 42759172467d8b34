"""A closed loop of keep-alive connections: each sends the same request again as soon as it has its answer.

`wrk` is used where it is installed, since a client in Python may be slower than what it measures; else the client below
runs, in a process of its own: `python -m bench.load PORT PATH CONNECTIONS SECONDS` sends the body that it reads from its
standard input (an argument may have 128 KiB at most) and prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop


@dataclass(frozen=True)
class Load:
    """What one run of load saw. Latencies in ms."""

    requests: int
    seconds: float
    p50: float
    p99: float
    failed: int


class Connection(asyncio.Protocol):
    """One connection; counts whole answers by their content-length."""

    def __init__(self, request: bytes, run: Run) -> None:
        self.request = request
        self.run = run
        self.data = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's classes
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.data = self.data + data if self.data else data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.data[: end + 2].lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at : head.index(b"\r\n", at)])
        if len(self.data) < end + 4 + length:
            return
        self.data = b""
        now = time.perf_counter()
        self.run.times.append(now - self.sent)
        self.run.failed += not head.startswith(b"http/1.1 200")
        if now >= self.run.until:
            self.transport.close()
        elif self.run.pause:
            self.run.loop.call_later(max(0.0, self.sent + self.run.pause - now), self.send)
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.open -= 1
        if not self.run.open:
            self.run.done.set_result(None)


class Run:
    """What all connections of one run share."""

    def __init__(self, connections: int, seconds: float, pause: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.pause = pause
        self.open = connections
        self.times: list[float] = []
        self.failed = 0
        self.until = time.perf_counter() + seconds
        self.done: asyncio.Future[None] = self.loop.create_future()


def request_bytes(port: int, path: str, body: bytes) -> bytes:
    """A Connect unary call as a client sends it."""
    return (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body


async def drive(port: int, path: str, body: bytes, connections: int, seconds: float, rate: float = 0.0) -> Load:
    """Runs the load in this process. `rate` is how many requests a second all connections make together at most."""
    run = Run(connections, seconds, connections / rate if rate else 0.0)
    request = request_bytes(port, path, body)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(request, run), "127.0.0.1", port)
    await run.done
    spent = time.perf_counter() - started
    ordered = sorted(run.times)
    return Load(
        len(ordered), spent, ordered[len(ordered) // 2] * 1e3, ordered[len(ordered) * 99 // 100] * 1e3, run.failed
    )


def by_wrk(wrk: str, port: int, path: str, body: bytes, connections: int, seconds: float) -> Load:
    """Runs the load by wrk, with one thread."""
    script = f"""wrk.method = "POST"
wrk.body = {json.dumps(body.decode())}
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %f %f %f %d\\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
"""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "post.lua"
        file.write_text(script)
        url = f"http://127.0.0.1:{port}{path}"
        # its own two seconds are fewer than a large body may wait behind thirty others on one core
        patience = ["--timeout", "30s"]
        command = [wrk, "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", *patience, "-s", str(file), url]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    fields = next(line for line in out.splitlines() if line.startswith("RESULT")).split()[1:]
    return Load(int(fields[0]), float(fields[1]), float(fields[2]), float(fields[3]), int(fields[4]))


def measure(port: int, path: str, body: bytes, connections: int, seconds: float) -> Load:
    """One run of load from outside this process."""
    wrk = shutil.which("wrk")
    if wrk:
        return by_wrk(wrk, port, path, body, connections, seconds)
    command = [sys.executable, "-m", "bench.load", str(port), path, str(connections), str(seconds)]
    out = subprocess.run(command, check=True, capture_output=True, input=body)
    return Load(**json.loads(out.stdout))


if __name__ == "__main__":
    _, port, path, connections, seconds = sys.argv
    content = sys.stdin.buffer.read()
    print(json.dumps(uvloop.run(drive(int(port), path, content, int(connections), float(seconds))).__dict__))
