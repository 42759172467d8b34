"""A client of the loads in a process of its own: `python -m bench.turns.client FILE`, FILE being a `Plan` in JSON.

Each connection sends its next request when it has the answer to the last one, or, with a rate, at fixed moments. Latencies
of a rate count from the moment at which a request was due: a server that stands still for a second is felt by all requests
of that second, and not by one a connection. The time in which this process was ready to run and the machine ran others is
taken off, as in server.py: it is not the server's. Prints a `Result` in JSON.
"""

from __future__ import annotations

import asyncio
import base64
import bisect
import contextlib
import itertools
import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop


@dataclass
class Request:
    """One request. `body` is base64, so that a plan is JSON."""

    path: str
    body: str = ""
    method: str = "POST"
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    def bytes(self, port: int) -> bytes:
        """As it goes on the wire."""
        body = base64.b64decode(self.body)
        lines = [f"{self.method} {self.path} HTTP/1.1", f"host: 127.0.0.1:{port}"]
        if self.method == "POST":
            lines += [f"content-type: {self.content_type}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@dataclass
class Plan:
    """What to send: for `seconds`, or `count` requests in all. `rate` is of all connections, a second; 0: no pauses. `wait`
    seconds pass first: the start of a process of Python, and of others beside it, takes a core for a while."""

    port: int
    requests: list[Request]
    connections: int = 1
    seconds: float = 3.0
    count: int = 0
    rate: float = 0.0
    timeout: float = 20.0
    nice: int = 0
    ahead: bool = False
    wait: float = 0.0


@dataclass
class Result:
    """What came of it. Latencies in ms; one that was not answered in time counts as long as it was waited for."""

    requests: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    most: float = 0.0
    largest: int = 0
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Requests that were not answered 200."""
        return self.requests - self.statuses.get("200", 0)


class Queued:
    """How long this thread has waited for a processor (s) until a moment of the last run."""

    def __init__(self) -> None:
        self._moments: list[float] = []
        self._waits: list[float] = []
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            self._file = -1

    def beat(self) -> None:
        """Notes it, every few milliseconds."""
        if self._file >= 0:
            self.note()
            asyncio.get_running_loop().call_later(0.003, self.beat)

    def note(self) -> float:
        """Notes it now; the moment."""
        now = time.monotonic()
        if self._file >= 0:
            self._moments.append(now)
            self._waits.append(int(os.pread(self._file, 80, 0).split()[1]) / 1e9)
        return now

    def between(self, began: float, end: float) -> float:
        """Seconds waited between two moments."""
        if not self._moments:
            return 0.0
        first, last = (max(0, bisect.bisect_right(self._moments, moment) - 1) for moment in (began, end))
        return self._waits[last] - self._waits[first]


class Run:
    """All connections of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.wire = itertools.cycle([request.bytes(plan.port) for request in plan.requests])
        self.left = plan.count or sys.maxsize
        self.times: list[float] = []
        self.result = Result()

    async def all(self) -> Result:
        """Runs them."""
        await asyncio.sleep(self.plan.wait)
        self.queued = Queued()
        self.queued.note()
        self.queued.beat()
        began = time.monotonic()
        self.until = began + self.plan.seconds
        await asyncio.gather(*(self._connection(number) for number in range(self.plan.connections)))
        result, times = self.result, sorted(self.times)
        result.requests, result.seconds = len(times), time.monotonic() - began
        if times:
            result.p50, result.p99 = times[len(times) // 2], times[len(times) * 99 // 100]
            result.most = times[-1]
        return result

    async def _connection(self, number: int) -> None:
        pause = self.plan.connections / self.plan.rate if self.plan.rate else 0.0
        due = time.monotonic() + pause * number / self.plan.connections
        streams = None
        while self.left > 0 and (now := time.monotonic()) < self.until:
            if pause:
                if due >= self.until:
                    break
                began = due
                if due > now:
                    await asyncio.sleep(due - now)
                    began = time.monotonic()  # a timer of this process that is late is not the server's fault
            else:
                began = now
            self.left -= 1
            try:
                async with asyncio.timeout(self.plan.timeout):
                    if streams is None:
                        streams = await asyncio.open_connection("127.0.0.1", self.plan.port)
                    status = await self._exchange(*streams)
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                status = type(error).__name__
            spent = time.monotonic() - began
            if spent > 0.005:
                spent = max(0.0, spent - self.queued.between(began, self.queued.note()))
            self.times.append(spent * 1e3)
            self.result.statuses[status] = self.result.statuses.get(status, 0) + 1
            due += pause
            if not status.isdigit() or status in ("413", "503", "408"):  # these may end the connection
                if streams is not None:
                    streams[1].close()
                streams = None
                if not status.isdigit():
                    await asyncio.sleep(0.01)
        if streams is not None:
            streams[1].close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(next(self.wire))
        with contextlib.suppress(ConnectionError):  # an answer may be there before the body is gone
            await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length:" in head:
            length = left = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            while left:
                some = await reader.read(min(left, 1 << 20))
                if not some:
                    raise EOFError
                left -= len(some)
        else:
            length = 0
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
                length += size
            await reader.readline()
        self.result.largest = max(self.result.largest, length)
        return head.split(b" ", 2)[1].decode()


def come_first() -> None:
    """This process before those of others on a busy machine. Needs root, and elsewhere does nothing."""
    with contextlib.suppress(OSError):
        os.setsid()  # where sessions are scheduled as groups, a niceness counts within one only
    with contextlib.suppress(OSError):
        os.nice(-10)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("-10")


def main() -> None:
    """Runs the plan."""
    given = json.loads(Path(sys.argv[1]).read_text())
    plan = Plan(**{**given, "requests": [Request(**request) for request in given["requests"]]})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if plan.ahead:
        come_first()
    with contextlib.suppress(OSError):  # only root may be served sooner than others
        os.nice(plan.nice)
    print(json.dumps(asdict(uvloop.run(Run(plan).all()))))


if __name__ == "__main__":
    main()
