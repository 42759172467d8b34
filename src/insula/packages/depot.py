"""The packages that are installed, each in a folder named by its sha256.

A package comes in as a stream of bytes: it is hashed while it is written to a file in `incoming/`, taken apart and
checked beside it, flushed to the disk, and only then renamed to its place. So a folder with a digest for a name is
whole, whenever the process or the machine dies; what dies in `incoming/` is swept away at the next opportunity. A
package that is here already is not written again, unless the disk has damaged it: then the new copy takes its place.

All of it works in threads; the event loop only hands chunks over.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path

from insula.durable import flush
from insula.errors import CallerError, Code, InsulaError
from insula.packages.blocking import in_thread
from insula.packages.deployable import Deployable, Format
from insula.packages.files import PIECE, read_file
from insula.packages.gzipped import ArchiveLimits, size

log = logging.getLogger("insula.packages")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_INCOMING = "incoming"
_ARCHIVE = "package"
_CONTENT = "content"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Depot:
    """The installed packages below one folder, which this server alone writes to."""

    def __init__(self, folder: Path, formats: Sequence[Format], *, max_bytes: int = ArchiveLimits().packed) -> None:
        """`folder` is made at the first package. Of the `formats` the first that recognises a package reads it; what none
        of them recognises the first one refuses, in its own words. `max_bytes` bounds a packed package where `add` is told
        nothing."""
        self._folder = folder
        self._formats = tuple(formats)
        self._incoming = folder / _INCOMING
        self._max_bytes = max_bytes
        self._active: set[str] = set()
        self._installing = asyncio.Lock()  # one is taken apart at a time; the others wait, their bytes on the disk

    async def add(self, source: AsyncIterator[bytes] | Path, *, max_bytes: int | None = None) -> Deployable:
        """Installs a package from its bytes, or from a file; the same one again is quick and changes nothing.

        PackageError for a bad package, CallerError (413) for one of more than `max_bytes`, `resource_exhausted` (507)
        where the disk is full. Whatever fails leaves nothing behind.
        """
        if isinstance(source, Path):
            async with aclosing(read_file(source)) as chunks:
                return await self.add(chunks, max_bytes=max_bytes)
        token = secrets.token_hex(8)
        self._active.add(token)
        beside = self._incoming / token
        try:
            digest = await self._receive(source, beside, self._max_bytes if max_bytes is None else max_bytes)
            async with self._installing:
                return await in_thread(self._install, beside, digest)
        finally:
            try:
                await in_thread(_remove, beside)
            finally:
                self._active.discard(token)

    async def get(self, digest: str) -> Deployable:
        """The installed package with this digest; `not_found` where it is not here, `data_loss` where it is damaged."""
        if not _DIGEST.fullmatch(digest):
            raise CallerError(
                f"{digest[:80]!r} is not the digest of a package", hint="a digest is 64 hexadecimal digits, lower case"
            )
        return await in_thread(self._load, digest)

    async def digests(self) -> frozenset[str]:
        """The digests of every package that is here."""
        return frozenset(
            place.name for place in await in_thread(_listed, self._folder) if _DIGEST.fullmatch(place.name)
        )

    async def sweep(self, keep: Collection[str]) -> list[str]:
        """Removes every package whose digest is not in `keep`, and what interrupted installs left; returns the digests
        removed. Nobody may be between `add` or `get` and the writing down of that digest meanwhile."""
        return await in_thread(self._sweep, frozenset(keep), frozenset(self._active))

    async def _receive(self, chunks: AsyncIterator[bytes], beside: Path, max_bytes: int) -> str:
        """Writes the stream to the archive file; returns the sha256."""
        await in_thread(self._prepare, beside)
        archive = beside / _ARCHIVE
        hashed = hashlib.sha256()
        received = 0
        gathered = bytearray()
        async for chunk in chunks:
            received += len(chunk)
            if received > max_bytes:
                raise CallerError(
                    f"the package is larger than {size(max_bytes)}", code=Code.RESOURCE_EXHAUSTED, status=413
                )
            gathered += chunk
            if len(gathered) >= PIECE:
                await in_thread(_append, archive, gathered, hashed.update)
                gathered = bytearray()
        await in_thread(_append, archive, gathered, hashed.update)
        return hashed.hexdigest()

    def _prepare(self, beside: Path) -> None:
        with _disk():
            if not self._incoming.is_dir():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies here is run: it is ours alone
                self._incoming.mkdir(exist_ok=True)
                flush(self._folder.parent)
            (beside / _CONTENT).mkdir(parents=True)

    def _install(self, beside: Path, digest: str) -> Deployable:
        with _disk():
            if (present := self._intact(digest)) is not None:
                return present
            archive, content = beside / _ARCHIVE, beside / _CONTENT
            reader = self._format(archive) or self._formats[0]
            reader.install(archive, content, digest, max(ArchiveLimits().packed, self._max_bytes))
            content.rename(self._folder / digest)
            flush(self._folder)
            return self._load(digest)

    def _intact(self, digest: str) -> Deployable | None:
        """The package where it is here and whole; one that is damaged or of another form makes room for its successor."""
        place = self._folder / digest
        if not place.is_dir():
            return None
        try:
            return self._load(digest)
        except InsulaError as error:
            if error.code not in (Code.DATA_LOSS, Code.FAILED_PRECONDITION):
                raise  # the disk or the process failed, which says nothing of the package
            self._discard(place)
            return None

    def _load(self, digest: str) -> Deployable:
        place = self._folder / digest
        if not place.is_dir():
            raise CallerError(
                f"there is no package sha256:{digest} here",
                code=Code.NOT_FOUND,
                hint="deploy it from its file or address",
            )
        with _disk():
            reader = self._format(place)
            if reader is None:
                raise InsulaError(
                    f"the installed package {digest[:12]} is damaged, or of a kind that this server does not have",
                    code=Code.DATA_LOSS,
                    reason="damaged_package",
                    hint="deploy it again from its source, on a server that has its kind",
                )
            return reader.read(place, digest)

    def _format(self, source: Path) -> Format | None:
        return next((each for each in self._formats if each.recognises(source)), None)

    def _sweep(self, keep: frozenset[str], active: frozenset[str]) -> list[str]:
        removed = []
        with _disk():
            for leftover in _listed(self._incoming):
                if leftover.name not in active:
                    _remove(leftover)
            for place in _listed(self._folder):
                if _DIGEST.fullmatch(place.name) and place.name not in keep:
                    self._discard(place)
                    removed.append(place.name)
        return removed

    def _discard(self, place: Path) -> None:
        """Takes an installed folder away in one step: a removal that dies half way must not look like a package."""
        spoilt = self._incoming / f"spoilt-{secrets.token_hex(8)}"
        self._incoming.mkdir(exist_ok=True)
        place.rename(spoilt)
        _remove(spoilt)


@contextmanager
def _disk() -> Iterator[None]:
    """What the disk fails with, told without its paths; a full one as what it is."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise InsulaError(
                "there is no room for the package on the server's disk",
                code=Code.RESOURCE_EXHAUSTED,
                reason="no_room",
                hint="free some space in the server's data folder, then deploy again",
                status=507,
            ) from error
        log.error("the depot's disk failed: %s", error)
        raise InsulaError(
            "the server could not read or write its packages", hint="the server's log says what its disk answered"
        ) from error


def _append(file: Path, data: bytes | bytearray, update: Callable[[bytes | bytearray], None]) -> None:
    update(data)
    with _disk(), open(file, "ab") as out:
        out.write(data)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
