"""A load's server seen from outside: started, deployed to, asked for its turns, killed where it hangs or takes too much."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

#: A server that takes more (bytes) is killed: there is only one machine.
MOST_MEMORY = 8 << 30
#: One that does not tell its turns for so long (s) hangs.
PATIENCE = 15.0


class HungError(Exception):
    """The server ended, was killed, or does not say a word any more."""


class Watched:
    """A server on a folder. `peak` is the most memory (bytes) that it had since `reset`."""

    def __init__(
        self, folder: Path, flags: Mapping[str, Any], deploy: Sequence[str | Path] = (), **options: bool
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        whole = {
            "server.port": 0,
            "server.admin_port": 0,
            "server.data_dir": str(folder / "data"),
            "logging.level": "error",
            "logging.file": str(folder / "server.log"),
            "limits.shutdown_grace_ms": 500,
            **flags,
        }
        given = json.dumps(
            {"flags": whole, "deploy": [str(path) for path in deploy], "stacks": False, "ahead": False, **options}
        )
        self.folder = folder
        self.peak = 0
        self.killed = ""
        with (folder / "errors.txt").open("wb") as errors:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "bench.turns.server", given],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.process = psutil.Process(self._popen.pid)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._weigh, daemon=True).start()
        ports = self._line(60)
        self.port, self.admin_port = int(ports["port"]), int(ports["admin_port"])
        self.url, self.admin_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.admin_port}"

    def _listen(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _weigh(self) -> None:
        while self._popen.poll() is None:
            try:
                now = self.memory()
            except psutil.Error:
                return
            self.peak = max(self.peak, now)
            if now > MOST_MEMORY:
                self.killed = f"killed at {now >> 20} MB"
                self._popen.kill()
            time.sleep(0.01)

    def memory(self) -> int:
        """Resident bytes without what is shared with files."""
        info = self.process.memory_info()
        return int(info.rss - info.shared)

    def _line(self, patience: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            self.killed = f"no answer for {patience:.0f} s"
            self._popen.kill()
            raise HungError(self.killed) from None
        if not line:
            self._popen.wait(10)
            text = (self.folder / "errors.txt").read_text("utf-8", "replace").strip().splitlines()
            why = self.killed or f"ended with {self._popen.returncode}"
            raise HungError(f"{why}{': ' + text[-1][:200] if text and not self.killed else ''}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _command(self, word: bytes) -> dict[str, Any]:
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(word + b"\n")
            self._popen.stdin.flush()
        except OSError:
            pass  # it has ended: the next line says so
        return self._line(PATIENCE)

    def reset(self) -> None:
        """Forgets the turns so far."""
        self._command(b"reset")
        self.peak = 0

    def read(self) -> dict[str, Any]:
        """The turns since `reset`, as server.py tells them."""
        return self._command(b"read")

    def cpu(self) -> float:
        """Processor seconds of the server, and of the processes that it has started; 0 once it has ended."""
        if self._popen.poll() is not None:
            return 0.0
        times = self.process.cpu_times()
        spent = times.user + times.system + times.children_user + times.children_system
        for child in self.process.children():
            try:
                times = child.cpu_times()
            except psutil.Error:
                continue
            spent += times.user + times.system
        return float(spent)

    def deploy(self, package: Path, *, timeout: float = 60, **query: str) -> httpx.Response:
        """Uploads a package."""
        return httpx.post(
            f"{self.admin_url}/api/v1/packages/deploy",
            params=query,
            headers={"content-type": "application/gzip"},
            content=package.read_bytes(),
            timeout=timeout,
        )

    def undeploy(self, service: str) -> httpx.Response:
        """Takes a service away."""
        return httpx.delete(f"{self.admin_url}/api/v1/packages/{service}", timeout=60)

    def stop(self) -> None:
        """Ends it, in order if it can."""
        self._popen.terminate()
        try:
            self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
