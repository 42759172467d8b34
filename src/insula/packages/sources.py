"""Where a package may come from: `file://`, `https://`, `http://`, `s3://` and `depot:`, each into the depot.

A source is a text that somebody sent, so each scheme says what it will not touch: files outside the operator's roots,
addresses that are not public, buckets that are not names. Every fetch is bounded in bytes and in time. Schemes are
compared without case.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote_to_bytes

from insula.errors import CallerError, DeadlineError
from insula.packages import outbound
from insula.packages.deployable import Deployable
from insula.packages.depot import Depot
from insula.packages.files import read_file
from insula.packages.gzipped import ArchiveLimits
from insula.packages.objects import read_object
from insula.spelling import nearest

_MAX_SOURCE = 4096
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_DEPOT = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What the operator allows. `roots` bounds `file://` (None: any file that the server can read); `timeout` in
    seconds is for a whole fetch."""

    roots: tuple[Path, ...] | None = None
    max_bytes: int = ArchiveLimits().packed
    allow_private: bool = False
    allow_http: bool = False
    timeout: float = 120.0


class Sources:
    """Fetches packages into a depot."""

    def __init__(self, depot: Depot, options: SourceOptions | None = None) -> None:
        self._depot = depot
        self._options = options or SourceOptions()
        self._openers: Mapping[str, Callable[[str], AsyncGenerator[bytes, None]]] = {
            "file": self._file,
            "https": partial(self._http, scheme="https"),
            "http": partial(self._http, scheme="http"),
            "s3": self._s3,
        }

    async def fetch(self, source: str) -> Deployable:
        """Installs the package that `source` names, or finds the one that is installed.

        CallerError: 404 where there is none, 403 where it may not be had, 413 where it is too large; PackageError where
        it is no package; `unavailable` and `deadline_exceeded` where the other side does not answer.
        """
        if len(source) > _MAX_SOURCE:
            raise CallerError(f"a source has at most {_MAX_SOURCE} characters")
        match = _SCHEME.match(source)
        scheme = match[1].lower() if match else ""
        rest = source[len(scheme) + 1 :]
        if scheme == "depot":
            return await self._depot.get(_depot_digest(rest))
        opener = self._openers.get(scheme)
        if opener is None:
            raise self._unknown(source, scheme)
        try:
            async with asyncio.timeout(self._options.timeout), aclosing(opener(rest)) as chunks:
                return await self._depot.add(chunks, max_bytes=self._options.max_bytes)
        except TimeoutError as error:
            raise DeadlineError(
                f"the package did not come within {self._options.timeout:g} s", hint="upload it, or raise the limit"
            ) from error

    def _unknown(self, source: str, scheme: str) -> CallerError:
        known = "file:///path, https://host/path, s3://bucket/key, depot:sha256:DIGEST"
        if not scheme or len(scheme) == 1:
            what = f"{source[:200]!r} is not an address of a package" if source else "the source is empty"
            example = f"write file://{source[:200]}" if source.startswith("/") else f"it looks like one of {known}"
            return CallerError(what, hint=example)
        meant = nearest(scheme, (*self._openers, "depot"))
        hint = f"did you mean {meant}:? The sources are {known}" if meant else f"the sources are {known}"
        return CallerError(f"packages do not come from {scheme[:40]}:", hint=hint)

    def _file(self, rest: str) -> AsyncGenerator[bytes, None]:
        return read_file(_path(rest), self._options.roots)

    async def _http(self, rest: str, scheme: str) -> AsyncGenerator[bytes, None]:
        options = self._options
        opening = outbound.get(
            f"{scheme}:{rest}",
            allow_private=options.allow_private,
            allow_http=options.allow_http,
            timeout=options.timeout,
        )
        async with opening as response, aclosing(outbound.body(response, options.max_bytes)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _s3(self, rest: str) -> AsyncGenerator[bytes, None]:
        bucket, _, key = rest.removeprefix("//").partition("/")
        return read_object(bucket, key, timeout=self._options.timeout, max_bytes=self._options.max_bytes)


def _depot_digest(rest: str) -> str:
    match = _DEPOT.fullmatch(rest)
    if match is None:
        raise CallerError(
            f"depot:{rest[:100]} names no package", hint="write depot:sha256: and the 64 digits of its digest"
        )
    return match[1].lower()


def _path(rest: str) -> Path:
    """The path of a file URL: absolute, of this machine, with its percent signs decoded."""
    if not rest.startswith("//"):
        host, path = "", rest
    else:
        host, slash, path = rest[2:].partition("/")
        path = slash + path
    if host.lower() not in ("", "localhost"):
        raise CallerError(
            f"file://{host[:100]} is another machine; packages are read from the server's own",
            hint="an absolute path has three slashes: file:///path/to/service.okra.pkg",
        )
    if "?" in path or "#" in path:
        raise CallerError("a file source has no ? or #", hint="write them as %3F and %23 where the name holds them")
    try:
        decoded = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CallerError("the path of the file source is not UTF-8") from error
    if not decoded.startswith("/") or "\0" in decoded:
        raise CallerError(f"file:{rest[:200]} is not an absolute path", hint="write file:///path/to/service.okra.pkg")
    return Path(decoded)
