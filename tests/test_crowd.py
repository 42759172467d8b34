"""A whole server and ten thousand clients that say nothing, as far as the system lets a process have so many sockets."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from insula import examples
from insula.edge.connections import TURNED_AWAY
from tests.running import Process, process

CROWD = 10_000
#: Fewer than this say nothing about thousands.
LEAST = 1000
#: Descriptors that a server has beside its connections.
OTHERS = 200
#: Bytes of the server's memory that a silent connection may cost.
EACH = 16_384

# From several addresses where the system has them, so that the ports of one are enough. A word on stdin, and it waits until
# the server has ended every connection; what it was told on them comes on stdout.
CLIENTS = """
import resource, selectors, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
watched = selectors.DefaultSelector()
for number in range(count):
    source = (f"127.0.0.{number % 4 + 1}", 0) if sys.platform == "linux" else None
    watched.register(socket.create_connection((host, port), source_address=source), selectors.EVENT_READ)
print("here", flush=True)
sys.stdin.readline()
told = {}
while watched.get_map():
    for key, _ in watched.select():
        try:
            said = key.fileobj.recv(4096)
        except ConnectionError:
            said = b""
        if said:
            first = said.split(b"\\r\\n")[0].decode()
            told[first] = told.get(first, 0) + 1
        else:
            watched.unregister(key.fileobj)
            key.fileobj.close()
print(told)
"""


def size() -> int:
    """How many clients there may be."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = CROWD if most == resource.RLIM_INFINITY else min(CROWD, most - 4 * OTHERS)
    if count < LEAST:
        pytest.skip(f"this user may have {most} files open in a process; raise ulimit -Hn")
    return count


def server_for(folder: Path, connections: int, timeout_ms: int) -> list[str]:
    """The flags of a server with room for so many, who may be silent for so long."""
    file = folder / "crowd.toml"
    file.write_text(f"[limits]\nmax_connections = {connections}\nheader_timeout_ms = {timeout_ms}\n")
    return ["--config", str(file), "--deploy", "greeter"]


@contextmanager
def crowd(server: Process, count: int) -> Iterator[subprocess.Popen[str]]:
    """So many connections of another process, once all of them are made."""
    host, port = server.url.removeprefix("http://").split(":")
    command = [sys.executable, "-c", CLIENTS, host, port, str(count)]
    clients = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert clients.stdout is not None
        assert clients.stdout.readline() == "here\n"
        yield clients
    finally:
        clients.kill()
        clients.communicate()


def connections(client: httpx.Client) -> int:
    found: int = client.get("/status").json()["connections"]
    return found


def test_a_crowd_that_says_nothing_costs_little_and_keeps_nobody_out(tmp_path: Path) -> None:
    count = size()
    with process(tmp_path, *server_for(tmp_path, count, 600_000)) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            assert client.post("/examples.Greeter/greet", json={"name": "x"}).status_code == 200
            memory = psutil.Process(server.popen.pid).memory_info
            before = memory().rss
            with crowd(server, count - 1) as clients:
                while connections(client) < count:
                    pass
                assert memory().rss - before < EACH * count
                for _ in range(20):
                    assert client.post("/examples.Greeter/greet", json={"name": "x"}).status_code == 200
                with httpx.Client(base_url=server.url, timeout=60) as one_more:
                    full = one_more.get("/health")
                assert (full.status_code, full.headers["retry-after"]) == (503, "1")
                assert httpx.get(f"{server.admin_url}/api/v1/health", timeout=60).status_code == 200
                clients.kill()
                while connections(client) > 1:
                    pass
            with httpx.Client(base_url=server.url, timeout=60) as one_more:
                assert one_more.get("/health").status_code == 200
        assert server.end() == 0


def test_a_crowd_never_has_every_file_that_the_server_may_open(tmp_path: Path) -> None:
    """Where the system gives it few, it takes fewer connections: the admin port, deploys and the database go on."""
    greeter = examples.find("greeter")
    assert greeter is not None
    few = ["sh", "-c", 'ulimit -n 400; exec "$@"', "sh"]
    with process(tmp_path, *server_for(tmp_path, 5000, 600_000), wrapper=few) as server:
        assert "takes 100 connections at once" in server.log.read_text()
        with httpx.Client(base_url=server.url, timeout=60) as client:
            assert client.get("/status").json()["max_connections"] == 100
            with crowd(server, 900):
                assert connections(client) <= 100 + TURNED_AWAY
                for _ in range(3):
                    assert client.post("/examples.Greeter/greet", json={"name": "x"}).status_code == 200
                    assert server.deploy(greeter, override="true").status_code == 200
                    assert httpx.get(f"{server.admin_url}/api/v1/packages", timeout=60).status_code == 200
        assert server.end() == 0


def test_a_crowd_that_says_nothing_is_sent_away_in_time(tmp_path: Path) -> None:
    """Each has its time for a first byte, however many there are; then its descriptor is free again."""
    count = size()
    with process(tmp_path, *server_for(tmp_path, count + 1, 1000)) as server:
        descriptors = psutil.Process(server.popen.pid).num_fds
        before = descriptors()
        with crowd(server, count) as clients:
            told, _ = clients.communicate("and now?\n", timeout=120)
            assert told == "{}\n"  # the end, without a word
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while connections(client) > 1:
                pass
            dropped = client.get("/metrics").text
            assert f'insula_connections_dropped_total{{reason="silent"}} {count}.0' in dropped
            assert descriptors() <= before + 2
        assert server.end() == 0
