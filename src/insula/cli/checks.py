"""The checks of `insula doctor`: each looks at one thing of this machine and says how it is and what to do about it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from insula.errors import InsulaError
from insula.settings import Settings

MIN_DISK = 1 << 30
MIN_MEMORY = 512 << 20
#: Descriptors that the server needs beside its connections.
SPARE_FILES = 256


class State(Enum):
    """`ok`; `note`: works, and this may matter; `fix`: something will not work."""

    OK = "ok"
    NOTE = "note"
    FIX = "fix"


class Finding(NamedTuple):
    """One line of the report; `todo` is what to type next."""

    state: State
    name: str
    what: str
    todo: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def python(_settings: Settings) -> Iterator[Finding]:
    """The interpreter."""
    state = State.OK if sys.version_info >= (3, 11) else State.FIX
    yield Finding(state, "python", sys.version.split()[0], "use Python 3.11 or newer")


def engine(_settings: Settings) -> Iterator[Finding]:
    """wasmtime, which must load and compile here."""
    try:
        import wasmtime

        wasmtime.Module(wasmtime.Engine(), b"\0asm\x01\0\0\0")
        yield Finding(State.OK, "wasmtime", version("wasmtime"))
    except Exception as error:
        yield Finding(
            State.FIX,
            "wasmtime",
            f"does not work here: {type(error).__name__}",
            "pip install --force-reinstall wasmtime",
        )


def compilers(_settings: Settings) -> Iterator[Finding]:
    """What `insula build` compiles with; only authors need it."""
    from insula.build.tools import find_go, find_zig

    for language, find in (("C", find_zig), ("Go", find_go)):
        try:
            tool = find()
            yield Finding(State.OK, f"{language} compiler", f"{tool.version}, {tool.program}")
        except InsulaError as error:
            yield Finding(State.NOTE, f"{language} compiler", error.message, error.hint or "")


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether the two ports are free, or who is there."""
    server = settings.server
    for name, host, port, option in (
        ("public port", server.host, server.port, "--port"),
        ("admin port", server.admin_host, server.admin_port, "--admin-port"),
    ):
        where = f"{host}:{port}"
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
            yield Finding(State.OK, name, f"{where} is free")
        except OSError as error:
            if _insula_answers(host, port):
                yield Finding(State.OK, name, f"{where}: a server of Insula is running there")
            else:
                free = next(
                    other for other in range(port + 1, port + 4) if other not in (server.port, server.admin_port)
                )
                yield Finding(State.FIX, name, f"{where}: {error.strerror or error}", f"insula serve {option} {free}")


def _insula_answers(host: str, port: int) -> bool:
    """Whether /api/v1/health, which both ports have, answers in Insula's shape."""
    import http.client
    import json

    connection = http.client.HTTPConnection(host, port, timeout=2)
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection.request("GET", "/api/v1/health")
        answer = json.loads(connection.getresponse().read(4096))
        return isinstance(answer, dict) and "status" in answer and "time" in answer
    return False


def data_folder(settings: Settings) -> Iterator[Finding]:
    """The data folder and its disk."""
    folder = settings.server.data_dir
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding(State.FIX, "data folder", f"{there} cannot be written", "insula serve --data-dir DIR")
        return
    yield Finding(State.OK, "data folder", f"{folder}" + ("" if there == folder else " (made at the first start)"))
    free = shutil.disk_usage(there).free
    said = f"{free / (1 << 30):.1f} GB free"
    yield Finding(State.OK if free >= MIN_DISK else State.FIX, "disk", said, f"make room on the disk of {there}")


def database(settings: Settings) -> Iterator[Finding]:
    """The server's own database, if there is one already."""
    url = settings.storage_url
    if url.startswith("sqlite"):
        yield _sqlite(Path(url.partition("?")[0].partition(":")[2].removeprefix("///")))
    else:
        yield _postgres(url)


def _sqlite(file: Path) -> Finding:
    import sqlite3

    if not file.exists():
        return Finding(State.OK, "database", f"SQLite {sqlite3.sqlite_version}, made at the first start")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)) as connection:
            connection.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error:
        return Finding(State.FIX, "database", f"{file} cannot be read as SQLite", "restore it from a backup")
    return Finding(State.OK, "database", f"SQLite {sqlite3.sqlite_version}, {file}")


def _postgres(url: str) -> Finding:
    if importlib.util.find_spec("psycopg") is None:
        return Finding(State.FIX, "database", "psycopg is not here", "pip install 'insula[postgres]'")
    import psycopg

    scheme, _, rest = url.partition("://")
    try:
        with psycopg.connect(f"{scheme.partition('+')[0]}://{rest}", connect_timeout=5) as connection:
            number = connection.info.server_version
    except psycopg.Error as error:
        what = f"PostgreSQL does not let us in: {type(error).__name__}"
        return Finding(State.FIX, "database", what, "look at storage.url and DATABASE_URL")
    return Finding(State.OK, "database", f"PostgreSQL {number // 10000}")


def limits(settings: Settings) -> Iterator[Finding]:
    """What the system lets one process have."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.limits.max_connections + settings.limits.max_admin_connections + SPARE_FILES
    if files == resource.RLIM_INFINITY or files >= needed:
        yield Finding(State.OK, "open files", "as many as needed")
    else:
        what = f"{files} allowed, {needed} needed for limits.max_connections"
        yield Finding(
            State.NOTE, "open files", what, f"ulimit -n {needed}, or LimitNOFILE={needed} in the systemd unit"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = f"{memory / (1 << 30):.1f} GB, {os.cpu_count()} processors"
    yield Finding(State.OK if memory >= MIN_MEMORY else State.NOTE, "machine", said, "512 MB is the least")


def startable(settings: Settings) -> Iterator[Finding]:
    """Whether a server starts on these settings."""
    from insula.settings import check_startable

    try:
        check_startable(settings)
        yield Finding(State.OK, "settings", f"{len(settings.origins)} set" if settings.origins else "defaults")
    except InsulaError as error:
        yield Finding(State.FIX, "settings", error.message, error.hint or "insula config show")


ALL: tuple[Check, ...] = (python, engine, compilers, startable, ports, data_folder, database, limits)
