"""The breaker of crash loops: which deployments were being staged when the process died, and how often that was so.

Before a deployment that is written down is staged, a line in the file `starts` of the data folder says so, flushed to the
disk; when its staging has ended, however it ended, another line takes that back. A process that finds a line which
nothing took back knows that its predecessor died with it (by the guest, by `kill -9`, by the power), and counts one death
for each deployment that was being staged then: up to `START_WIDTH` at a start, so the innocent share the blame. A staging
that ends clears the count, except one that was called off: that proves nothing.

A file of this folder, and not the database: deployments belong to a data folder, a line costs one flush and no
transaction, and several that begin at once share it. Where the disk takes no line, the log says so and the staging goes
on: a full disk is no reason not to start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from insula.durable import replace_file
from insula.packages.blocking import in_thread

log = logging.getLogger("insula.deployments")

#: Deaths from which on a deployment is started last, alone.
SUSPECT = 2
#: Deaths from which on it is not started by itself any more.
GIVEN_UP = 3

_FILE = "starts"
#: The size (bytes) from which on the file is written anew.
_MOST = 1 << 16
_BEGUN, _ENDED, _CALLED_OFF, _DEATHS = "+", "-", "~", "="


class Attempt(NamedTuple):
    """A service and its digest, as the database has them. Another digest of the same service is another deployment."""

    service_id: str
    digest: str


class Attempts:
    """The file of one data folder. Lives on the event loop; `open` blocks."""

    def __init__(self, file: Path, handle: int | None, deaths: dict[Attempt, int]) -> None:
        self._file = file
        self._handle = handle
        self._deaths = deaths
        self._under_way: set[Attempt] = set()
        self._lines: list[str] = []  # to be written next
        self._size = 0
        self._writing = asyncio.Lock()
        self._failed = handle is None

    @classmethod
    def open(cls, folder: Path) -> Attempts:
        """Reads the file, counts the deaths, and writes them down before anything is staged again."""
        file = folder / _FILE
        deaths = _read(file)
        try:
            if file.exists():
                replace_file(file, _text(deaths))
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            _tell(file, error)
            return cls(file, None, deaths)
        return cls(file, handle, deaths)

    def close(self) -> None:
        """Gives the file back. Blocks for a moment; may be called twice."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def deaths(self, service_id: str, digest: str) -> int:
        """How often in a row the process died while this was being staged."""
        return self._deaths.get(Attempt(service_id, digest), 0)

    def keep(self, present: Iterable[Attempt]) -> None:
        """Forgets every deployment but these: what is not written down is not started."""
        present = set(present)
        for gone in self._deaths.keys() - present:
            del self._deaths[gone]

    @asynccontextmanager
    async def marked(self, service_id: str, digest: str) -> AsyncIterator[None]:
        """Around a staging: a death meanwhile counts, its end clears the count."""
        attempt = Attempt(service_id, digest)
        self._under_way.add(attempt)
        end = _CALLED_OFF
        try:
            await self._note(_BEGUN, attempt)
            yield
            end = _ENDED
        except Exception:
            end = _ENDED  # it failed, and the process lives
            raise
        finally:
            self._under_way.discard(attempt)
            if end == _ENDED:
                self._deaths.pop(attempt, None)
            await self._note(end, attempt)

    async def forget(self, service_id: str) -> None:
        """Clears what is counted of a service, which was deployed anew or taken away."""
        for attempt in [attempt for attempt in self._deaths if attempt.service_id == service_id]:
            del self._deaths[attempt]
            await self._note(_ENDED, attempt)

    async def _note(self, what: str, attempt: Attempt) -> None:
        """Writes a line. One that waits for another to be written may find that it was written with it."""
        self._lines.append(f"{what} {attempt.service_id} {attempt.digest}\n")
        async with self._writing:
            lines, self._lines = self._lines, []
            if not lines or self._handle is None:
                return
            anew = not self._under_way and (not self._deaths or self._size > _MOST)
            try:
                if anew:
                    await in_thread(self._rewrite, _text(self._deaths))
                else:
                    await in_thread(self._append, lines)
                self._failed = False
            except OSError as error:
                if not self._failed:
                    _tell(self._file, error)
                self._failed = True

    def _append(self, lines: list[str]) -> None:
        """What begins is flushed to the disk; of what ends, a power cut may take the line."""
        assert self._handle is not None
        text = "".join(lines).encode()
        os.write(self._handle, text)
        self._size += len(text)
        if any(line.startswith(_BEGUN) for line in lines):
            os.fdatasync(self._handle)

    def _rewrite(self, text: bytes) -> None:
        """Nothing is being staged: only the deaths are to be kept. Where there are none, no flush is needed: what a power
        cut brings back are lines that were all taken back."""
        assert self._handle is not None
        if not text:
            os.ftruncate(self._handle, 0)
        else:
            replace_file(self._file, text)
            handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            os.dup2(handle, self._handle, inheritable=False)
            os.close(handle)
        self._size = len(text)


def _text(deaths: dict[Attempt, int]) -> bytes:
    return "".join(f"{_DEATHS} {key.service_id} {key.digest} {count}\n" for key, count in deaths.items()).encode()


def _read(file: Path) -> dict[Attempt, int]:
    """Deaths by deployment, those of the process that wrote the file included. A line that is cut off, or none of ours, is
    passed over: whatever the file holds, the server starts."""
    try:
        text = file.read_text("utf-8", "replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        _tell(file, error)
        return {}
    deaths: dict[Attempt, int] = {}
    under_way: dict[Attempt, None] = {}
    for line in text.split("\n")[:-1]:
        match line.split(" "):
            case [mark, service_id, digest] if mark in (_BEGUN, _ENDED, _CALLED_OFF):
                attempt = Attempt(service_id, digest)
                if mark == _BEGUN:
                    under_way[attempt] = None
                else:
                    under_way.pop(attempt, None)
                    if mark == _ENDED:
                        deaths.pop(attempt, None)
            case [mark, service_id, digest, count] if mark == _DEATHS and count.isascii() and count.isdecimal():
                deaths[Attempt(service_id, digest)] = int(count[:6])
    for attempt in under_way:
        deaths[attempt] = deaths.get(attempt, 0) + 1
    return deaths


def _tell(file: Path, error: OSError) -> None:
    log.error(
        "%s cannot be used (%s): a deployment that ends the process when it starts will be started again and again",
        file,
        error.strerror,
    )
