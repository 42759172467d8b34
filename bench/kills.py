"""kill -9 at random moments under load: is anything lost that was acknowledged?

`python -m bench.kills [ROUNDS]`. Clients count in the counter example, which keeps its numbers in `okra.state`, while its
package is deployed over itself, and the server is killed after a moment of up to a second. After each kill it must start,
have the service ready, and have counted at least what was acknowledged and at most what was sent. Ends with 1 otherwise.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from bench.running import Running
from insula.build.project import build

COUNTER = Path(__file__).parent.parent / "examples" / "counter"
CLIENTS = 3


class Round:
    """One life of the server: how many increments were sent, and how many of them acknowledged."""

    def __init__(self, server: Running, package: Path) -> None:
        self.sent = self.acknowledged = 0
        self._server = server
        self._package = package
        self._lock = threading.Lock()
        self._over = threading.Event()

    def live(self, seconds: float) -> None:
        """Loads the server for that long and kills it."""
        threads = [threading.Thread(target=self._count) for _ in range(CLIENTS)]
        threads.append(threading.Thread(target=self._deploy))
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self._server.popen.kill()
        self._server.popen.wait()
        self._over.set()
        for thread in threads:
            thread.join()

    def _count(self) -> None:
        while not self._over.is_set():
            with self._lock:
                self.sent += 1
            try:
                increment(self._server)
            except OSError:
                continue
            with self._lock:
                self.acknowledged += 1

    def _deploy(self) -> None:
        while not self._over.is_set():
            try:
                deploy(self._server, self._package)
            except OSError:
                time.sleep(0.01)


def increment(server: Running) -> int:
    """Counts once; the count then. OSError where that was not acknowledged."""
    url = f"http://127.0.0.1:{server.port}/examples.Counter/increment"
    request = urllib.request.Request(url, b'{"name":"kills"}', {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(json.load(answer)["value"])


def deploy(server: Running, package: Path) -> None:
    """Deploys the package, over itself where it is there already."""
    url = f"http://127.0.0.1:{server.admin_port}/api/v1/packages/deploy?override=true"
    request = urllib.request.Request(url, package.read_bytes(), {"content-type": "application/gzip"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def main() -> None:
    """Runs the rounds."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        package = build(Path(shutil.copytree(COUNTER, Path(name) / "counter"))).path
        server = Running(folder)
        deploy(server, package)
        count, starts = increment(server), []
        for number in range(1, rounds + 1):
            life = Round(server, package)
            life.live(random.uniform(0.01, 1.0))
            server = Running(folder)
            starts.append(server.seconds)
            now = increment(server)
            least, most = count + life.acknowledged + 1, count + life.sent + 1
            if not least <= now <= most:
                sys.exit(f"round {number}: counted {now}, and it should be from {least} to {most}")
            count = now
            print(f"\r{number} kills, {count} counted", end="", flush=True)
        server.stop()
    print(f"\nnothing that was acknowledged is lost; slowest start {max(starts):.2f} s")


if __name__ == "__main__":
    main()
