"""Compiled code on disk: one file for each module and fingerprint, and beside it the module's facts and sha256 (facts.py).

What is here is native code: a user who can write it can run code in this server. So the folder is our user's alone (0700)
or it is not used; a file comes in only by a rename, whole and synced; and it is loaded only while its sha256 is the one
that was noted, so that a file cut off, overwritten or half on a failing disk is compiled again instead of run. What has
not been used for the longest time is swept when all of it together is larger than it may be.

Everything here blocks: it is called in threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Collection
from pathlib import Path

from insula.durable import flush, write_file
from insula.errors import ConfigurationError
from insula.wasm.facts import Facts

#: A file that was being written for longer than this (s) when it is looked at belongs to nobody any more.
_ABANDONED = 600

#: What nobody reads once it is abandoned; notes were called `.sha256` before they had more in them.
_LEFT_BEHIND = (".part", ".note", ".sha256")


class CodeCache:
    """`folder` is made where it is not there. `max_bytes` bounds what stays after a sweep."""

    def __init__(self, folder: Path, fingerprint: str, max_bytes: int) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._max_bytes = max_bytes

    def prepare(self) -> None:
        """Makes the folder, or checks that nobody else can write there. ConfigurationError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ConfigurationError(
                f"the folder of compiled modules, {self._folder}, is open to other users",
                hint=f"it holds native code: make it yours alone with chown and chmod 700 {self._folder}",
            )

    def path(self, digest: str) -> Path:
        """Where the code of a module is, or will be."""
        return self._folder / f"{digest}-{self._fingerprint}.cwasm"

    def draft(self, digest: str) -> Path:
        """Where to write code before it is kept."""
        return self._folder / f".{digest}-{os.getpid()}-{time.monotonic_ns()}.part"

    def find(self, digest: str) -> tuple[Path, Facts] | None:
        """The code of a module and its facts; None if there is none, or if it is damaged. Notes that it was used."""
        path = self.path(digest)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            facts = Facts.parse(_note(path).read_text())
            if found != facts.sha256:
                return None
            os.utime(path)
        except (OSError, ValueError):
            return None
        return path, facts

    def keep(self, digest: str, draft: Path, facts: Facts) -> Path:
        """Takes in the code that was written and synced to `draft`; both names are there when this returns."""
        path = self.path(digest)
        note = draft.with_suffix(".note")
        write_file(note, facts.text().encode())
        note.replace(_note(path))
        draft.replace(path)
        flush(self._folder)
        return path

    def drop(self, digest: str) -> None:
        """Forgets the code of one module."""
        self.path(digest).unlink(missing_ok=True)
        _note(self.path(digest)).unlink(missing_ok=True)

    def sweep(self, in_use: Collection[str]) -> None:
        """Removes the oldest code until what is left fits, never that of a digest `in_use`, and drafts left behind."""
        files = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix == ".cwasm":
                    files.append((status.st_mtime, status.st_size, path))
                elif path.suffix in _LEFT_BEHIND and time.time() - status.st_mtime > _ABANDONED:
                    path.unlink()
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_bytes:
                break
            if path.name.partition("-")[0] not in in_use:
                path.unlink(missing_ok=True)
                _note(path).unlink(missing_ok=True)
                total -= size


def _note(path: Path) -> Path:
    return path.with_suffix(".facts")
