"""A package that comes as a request body: passed on piece by piece, never held whole, bounded in size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from insula.errors import CallerError, Code, DeadlineError, InsulaError, LimitError


def too_large(max_bytes: int) -> InsulaError:
    """413, whichever way it was noticed."""
    return LimitError(
        f"the package is larger than {max_bytes} bytes",
        status=413,
        hint="leave out what the service does not need, or raise packages.max_bytes",
    )


async def bounded(
    body: AsyncIterator[bytes], *, max_bytes: int, timeout: float, declared: int | None = None
) -> AsyncIterator[bytes]:
    """The pieces of a body. Raises 413 above `max_bytes` (or `declared`, its Content-Length, at once) and 408 once the
    whole has not come within `timeout` seconds; the time that the reader of the pieces takes counts too."""
    if declared is not None and declared > max_bytes:
        raise too_large(max_bytes)
    loop = asyncio.get_running_loop()
    deadline, size = loop.time() + timeout, 0
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                piece = await anext(body, None)
        except TimeoutError:
            raise DeadlineError(
                "the package did not come in time", status=408, hint="send it faster, or raise packages.read_timeout_ms"
            ) from None
        if piece is None:
            break
        size += len(piece)
        if size > max_bytes:
            raise too_large(max_bytes)
        if piece:
            yield piece
    if not size:
        raise CallerError("the body is empty: there is no package in it", hint="curl --data-binary @NAME.okra.pkg …")


async def whole(body: AsyncIterator[bytes], *, max_bytes: int, timeout: float) -> bytes:
    """A small body as one; the same bounds."""
    pieces, size = [], 0
    try:
        async with asyncio.timeout(timeout):
            async for piece in body:
                size += len(piece)
                if size > max_bytes:
                    raise LimitError(f"the body is larger than the {max_bytes} bytes that it may have here", status=413)
                pieces.append(piece)
    except TimeoutError:
        raise DeadlineError("the body did not come in time", status=408) from None
    return b"".join(pieces)


def declared_length(value: str | None) -> int | None:
    """Content-Length as a number; 400 where it is none."""
    if value is None:
        return None
    if not value.isascii() or not value.isdecimal() or len(value) > 18:
        raise CallerError("Content-Length is not a number", code=Code.INVALID_ARGUMENT)
    return int(value)
