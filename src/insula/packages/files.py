"""A package in a file of this machine: opened once, checked on the open handle, read in pieces.

Only a plain file is read: opening a fifo or a device could wait for ever, so it is opened without waiting and looked at
before the first byte. Where roots are given, the file must lie below one of them once every link has been followed, and
what lies outside is answered alike whether it exists or not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import BinaryIO

from insula.errors import CallerError, Code
from insula.packages.blocking import in_thread

#: A file is read in pieces of this size.
PIECE = 1 << 20


async def read_file(file: Path, roots: Sequence[Path] | None = None) -> AsyncGenerator[bytes, None]:
    """The bytes of a plain file; CallerError `not_found`, `permission_denied`, or `invalid_argument` for a folder."""
    stream = await in_thread(open_plain, file, roots)
    try:
        while chunk := await in_thread(_read, stream, file):
            yield chunk
    finally:
        stream.close()


def open_plain(file: Path, roots: Sequence[Path] | None = None) -> BinaryIO:
    """The plain file, open for reading. Blocking; the errors of `read_file`."""
    real = _real(file, roots)
    try:
        handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CallerError(
            f"there is no file {file}", code=Code.NOT_FOUND, hint="the path is one of the server's machine"
        ) from error
    except OSError as error:
        raise _unreadable(file, error) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise CallerError(
                f"{file} is not a plain file", hint="name the .okra.pkg itself, not the folder it lies in"
            )
        if roots is not None and not os.path.samestat(status, os.stat(_real(file, roots))):
            raise _outside(file)  # the path was turned to another file between the check and the opening
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _read(stream: BinaryIO, file: Path) -> bytes:
    try:
        return stream.read(PIECE)
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> CallerError:
    return CallerError(
        f"the server cannot read {file}: {error.strerror}",
        code=Code.PERMISSION_DENIED,
        hint="the user that the server runs as needs to read it",
    )


def _real(file: Path, roots: Sequence[Path] | None) -> Path:
    """The file behind every link; refused where it lies below none of the roots."""
    try:
        real = file.resolve()
        if roots is None or any(real.is_relative_to(root.resolve()) for root in roots):
            return real
    except (OSError, RuntimeError) as error:  # a loop of links
        raise _outside(file) from error
    raise _outside(file)


def _outside(file: Path) -> CallerError:
    return CallerError(
        f"{file} does not lie below the folders that packages may come from",
        code=Code.PERMISSION_DENIED,
        hint="add its folder to [sources] roots, or upload the package",
    )
