"""Takes the files of a package out of its archive, whatever a stranger put into it.

Names from the archive never become paths on this machine: each wanted file is written under a number, and is named
only once the whole archive has been read and found plain, with a name that `want` knows. Even so, every name is held to
the rules, since an archive that breaks them is an attack or a mistake and the sender should hear of it:

- files and folders alone; a link, device or fifo is refused;
- no absolute path, no `..`, no backslash, drive letter or control character;
- no name twice, also not in another spelling of case, nor one name as file and folder;
- what macOS, tar and editors leave beside the real files (`._x`, `__MACOSX/`, `.DS_Store`, `PaxHeaders/`) is passed over,
  and so is any other plain file that is no part of a package;
- `./` in front means nothing, and the whole package may lie in one top folder.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from insula.errors import PackageError
from insula.packages.gzipped import ArchiveLimits, Inflater, size, too_large
from insula.packages.tar import Entry, entries

#: Asked with a path inside the package: the most bytes that this file may have, or None where it is no part of one.
Want = Callable[[str], "int | None"]

_KINDS = {
    "1": "a hard link",
    "2": "a symbolic link",
    "3": "a device",
    "4": "a device",
    "6": "a fifo",
    "S": "a sparse file",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_SHADOW_FOLDERS = re.compile(r"__MACOSX|PaxHeaders?(\..*)?")


@dataclass(frozen=True, slots=True)
class Extracted:
    """What came out: the size in bytes of each file, and the plain files passed over, by their paths in the package."""

    files: dict[str, int]
    passed_over: tuple[str, ...]


def extract(stream: BinaryIO, into: Path, want: Want, limits: ArchiveLimits | None = None) -> Extracted:
    """Writes the wanted files of a gzip tar into the empty folder `into`. Blocking.

    PackageError for an archive that is not one, breaks a rule or a limit; OSError where the disk fails. Either may
    leave files in `into`.
    """
    limits = limits or ArchiveLimits()
    names = _Names(limits)
    found: dict[str, tuple[Path, int]] = {}
    passed_over: list[str] = []
    for entry in entries(Inflater(stream, limits), limits):
        path = names.take(entry)
        if path is None or entry.kind == "5":
            continue
        most = _most(path, want)
        if most is None:
            passed_over.append(path)
            continue
        if entry.size > most:
            raise too_large(f"{path} in the package is larger than {size(most)}")
        target = into / str(len(found))
        _write(target, entry)
        found[path] = (target, entry.size)
    root = _root(found, want)
    files = {}
    for path, (target, length) in found.items():
        inside = path.removeprefix(root)
        if path.startswith(root) and want(inside) is not None:
            (into / inside).parent.mkdir(exist_ok=True)
            target.rename(into / inside)
            files[inside] = length
        else:
            target.unlink()
    return Extracted(files, tuple(path.removeprefix(root) for path in passed_over))


class _Names:
    """Every name so far, and the rules for the next one."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._seen: dict[str, tuple[str, str]] = {}

    def take(self, entry: Entry) -> str | None:
        """The entry's path in normal form; None for a shadow file or the root folder itself."""
        shown = repr(entry.name[:200])
        if entry.kind not in ("0", "5"):
            what = _KINDS.get(entry.kind, "neither a file nor a folder")
            raise PackageError(
                f"{shown} in the package is {what}", hint="a package holds plain files and folders alone"
            )
        if _CONTROL.search(entry.name):
            raise PackageError(f"the name {shown} in the package holds a control character")
        if "\\" in entry.name:
            raise PackageError(
                f"the name {shown} in the package holds a backslash", hint="pack it with / between folders, as tar does"
            )
        parts = [part for part in entry.name.split("/") if part not in ("", ".")]
        if entry.name.startswith("/") or ".." in parts or _DRIVE.match("".join(parts[:1])):
            raise PackageError(f"the name {shown} in the package leads out of it", hint="pack from inside the folder")
        if not parts and entry.kind == "0":
            raise PackageError("a file in the package has no name")
        if len(parts) > self._limits.depth:
            raise PackageError(f"the package nests its folders more than {self._limits.depth} deep")
        if entry.kind == "5" and entry.size:
            raise PackageError(f"the folder {shown} in the package has content, as only a file may")
        if not parts or any(part.startswith("._") or _SHADOW_FOLDERS.fullmatch(part) for part in parts):
            return None
        if parts[-1] == ".DS_Store":
            return None
        for depth in range(1, len(parts)):
            self._note("/".join(parts[:depth]), "5")
        return self._note("/".join(parts), entry.kind)

    def _note(self, path: str, kind: str) -> str:
        """Remembers one path; folders may come again, nothing else may."""
        key = unicodedata.normalize("NFC", path).casefold()
        again = key in self._seen
        spelling, before = self._seen.setdefault(key, (path, kind))
        if spelling != path:
            raise PackageError(
                f"{path!r} and {spelling!r} in the package differ by their spelling alone", hint="keep one of them"
            )
        if before != kind:
            raise PackageError(f"{path!r} is both a file and a folder in the package")
        if again and kind == "0":
            raise PackageError(f"{path!r} is in the package twice", hint="pack it afresh instead of appending to it")
        return path


def _most(path: str, want: Want) -> int | None:
    """What `want` says of the path, or of the path below its top folder."""
    most = want(path)
    if most is None and "/" in path:
        most = want(path.partition("/")[2])
    return most


def _root(found: Iterable[str], want: Want) -> str:
    """The folder of the archive that the package lies in: `` or `name/`."""
    if any(want(path) is not None for path in found):
        return ""
    roots = sorted({path.partition("/")[0] for path in found})
    if len(roots) > 1:
        raise PackageError(
            f"the archive holds a package in each of {', '.join(repr(root) for root in roots[:4])}",
            hint="pack one package into an archive",
        )
    return f"{roots[0]}/" if roots else ""


def _write(target: Path, entry: Entry) -> None:
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o644)
    with open(handle, "wb") as file:
        for chunk in entry.chunks():
            file.write(chunk)
