"""The data folder: made with mode 0700, locked against a second server, and named by an id of its own.

The lock is the kernel's (flock), so it ends with the process that holds it, however that ends; the file's text is the
holder's pid, for messages alone.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from pathlib import Path

from insula.durable import flush
from insula.errors import ConfigurationError

_NODE_ID = re.compile(r"[0-9a-f]{32}")


class DataFolder:
    """Owner of the lock on a data folder; `close` may be called twice. Does file work: not for the event loop."""

    def __init__(self, path: Path, lock: int, node_id: str) -> None:
        self.path = path
        self.node_id = node_id
        self._lock: int | None = lock

    @classmethod
    def open(cls, path: Path) -> DataFolder:
        """Makes the folder where it is missing and locks it. ConfigurationError where another server has it, or it
        cannot be used."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            _take(lock, path)
            return cls(path, lock, _node_id(path))
        except OSError as error:
            os.close(lock)
            raise _unusable(path, error) from error
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Gives the folder back."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> DataFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        raise ConfigurationError(
            f"the data folder {path} is in use by another server" + (f" (pid {holder})" if holder.isdigit() else ""),
            hint="stop that server, or give this one a folder of its own with --data-dir",
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _node_id(path: Path) -> str:
    file = path / "node-id"
    try:
        text = file.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return _new_node_id(file)
    if not _NODE_ID.fullmatch(text):
        raise ConfigurationError(
            f"{file} does not hold the id of a data folder",
            hint="restore it from a backup: the deployments in the database are listed under it",
        )
    return text


def _new_node_id(file: Path) -> str:
    node_id = secrets.token_hex(16)
    beside = file.with_name("node-id.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, f"{node_id}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.rename(file)
    flush(file.parent)
    return node_id


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"the data folder {path} cannot be used: {error.strerror}",
        hint="it must be a folder that the server's user may write; --data-dir names another",
    )
