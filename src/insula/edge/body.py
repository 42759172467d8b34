"""The body of a request: read within a bound, then inflated within the same bound.

Nothing here is called for a request that was refused. A length that is too large is refused before a byte is read; a body
without a length as soon as it is too large. What inflates to little does so at once; more is done in a thread, so that no
body holds the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from insula.edge.backlog import Backlog
from insula.edge.compression import inflate, is_slow
from insula.edge.exchange import Head
from insula.errors import LimitError, UnavailableError

#: Bytes that are inflated on the loop, in and out.
INLINE = 131_072


class ClientGoneError(Exception):
    """The client left before its request was whole, or before it was answered."""


def too_large(limit: int, setting: str = "limits.body_bytes") -> LimitError:
    """The refusal of a body above a limit in bytes, which a `setting` sets ("": none does); 0 bytes is a path that takes
    none."""
    if not limit:
        return LimitError("a request to this path has no body", status=413)
    if not setting:
        return LimitError(f"the body is larger than the {limit} bytes that it may have here", status=413)
    return LimitError(
        f"the body is larger than {setting} allows, {limit} bytes",
        reason=setting.rpartition(".")[2],
        hint=f"send less at once, or raise {setting}",
        status=413,
    )


def check_length(head: Head, limit: int, setting: str = "limits.body_bytes") -> LimitError | None:
    """The refusal of a body that says by its length that it is too large."""
    length = head.get(b"content-length")
    # the parser has seen to it that a length is digits that fit 64 bits
    return too_large(limit, setting) if length is not None and int(length) > limit else None


class _Arriving:
    """A body of which a part has come, as the holder of that part. Once it was given up it holds nothing any more: its task
    is told in a later turn, and more of the body may come until then."""

    def __init__(self, backlog: Backlog, tenant: str, clock: asyncio.Timeout) -> None:
        self._backlog = backlog
        self._tenant = tenant
        self._clock = clock
        self._given_up = False

    def has(self, size: int) -> None:
        """Notes how much has come."""
        if not self._given_up:
            self._backlog.hold(self, size, self._tenant)

    def give_up(self) -> None:
        if not self._given_up:
            self._given_up = True
            self._clock.reschedule(asyncio.get_running_loop().time())


async def read_body(
    receive: Any, limit: int, backlog: Backlog, tenant: str = "", setting: str = "limits.body_bytes"
) -> bytes:
    """The whole body as it came. LimitError (413) beyond `limit`, ClientGoneError where the rest does not come,
    UnavailableError where it has been coming for so long that its part in the `backlog` was needed for others."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    if len(body) > limit:
        raise too_large(limit, setting)
    if not message.get("more_body", False):
        return body
    try:
        async with asyncio.timeout(None) as clock:
            arriving = _Arriving(backlog, tenant, clock)
            try:
                return await _rest(receive, limit, setting, arriving.has, bytearray(body))
            finally:
                backlog.release(arriving)
    except TimeoutError:
        raise UnavailableError(
            f"the server holds as much of unfinished bodies as limits.held_mb allows, {backlog.most >> 20} MiB, and this "
            "one has been coming for longest",
            reason="backlog_full",
            hint="send it again, faster; the operator may raise limits.held_mb",
            retry_after=1.0,
        ) from None


async def _rest(receive: Any, limit: int, setting: str, note: Callable[[int], None], whole: bytearray) -> bytes:
    while True:
        note(len(whole))
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        whole += message.get("body", b"")
        if len(whole) > limit:
            raise too_large(limit, setting)
        if not message.get("more_body", False):
            return bytes(whole)


async def inflate_body(codings: list[bytes], body: bytes, limit: int, run: Callable[..., Awaitable[bytes]]) -> bytes:
    """The body without its codings, at most `limit` bytes. `run` calls a function in a thread."""
    if not body:
        return body
    if len(body) <= INLINE and not is_slow(codings):
        try:
            return inflate(codings, body, min(limit, INLINE))
        except LimitError:
            if limit <= INLINE:
                raise
    return await run(inflate, codings, body, limit)
