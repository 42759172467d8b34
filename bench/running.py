"""The server as a process, for what is measured from outside."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Running:
    """The server on a data folder, until `stop`. `seconds` is what it took from the start of the process to ready."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.port, self.admin_port = free_port(), free_port()
        command = [sys.executable, "-m", "insula", "serve", "--data-dir", str(folder), "--log-level", "error"]
        command += ["--port", str(self.port), "--admin-port", str(self.admin_port), *arguments]
        started = time.perf_counter()
        self.popen = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while not self._ready():
            time.sleep(0.005)
        self.seconds = time.perf_counter() - started
        self.process = psutil.Process(self.popen.pid)

    def _ready(self) -> bool:
        if self.popen.poll() is not None:
            sys.exit(f"the server ended with {self.popen.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def deploy(self, package: Path) -> None:
        """Uploads a package."""
        url = f"http://127.0.0.1:{self.admin_port}/api/v1/packages/deploy"
        request = urllib.request.Request(url, package.read_bytes(), {"content-type": "application/gzip"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()

    def stop(self) -> None:
        """Ends it in order."""
        self.popen.terminate()
        self.popen.wait(60)
