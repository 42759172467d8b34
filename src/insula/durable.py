"""Writing that is still there after a power cut: what is flushed to the disk, and in which order. Blocking."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_file(file: Path, data: bytes) -> None:
    """Writes a file, in place of what it held, and flushes it; its name is only as durable as its folder."""
    with open(file, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def replace_file(target: Path, data: bytes) -> None:
    """Writes a file beside its name and renames it over: a reader sees the old content or the new one."""
    beside = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    try:
        write_file(beside, data)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    flush(target.parent)


def flush(path: Path) -> None:
    """Flushes what is written already: the content of a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
