"""Answers that come in chunks: what `okra.next` pulls from.

A capability whose answer is long opens an iterator and puts its id into its first answer; the guest asks for the rest
chunk by chunk. An iterator belongs to one scope: nobody else can name it, at most `MAX_ITERATORS` are open at a time, and
it is closed when it has given its last chunk, when it fails, when it is `LIFETIME` seconds old, or when the scope ends.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Protocol

from insula.errors import LimitError
from insula.host.contract import HostError
from insula.host.scope import Scope

MAX_ITERATORS = 100
LIFETIME = 300.0

_numbers = itertools.count(1)
_KEY = object()


class Chunks(Protocol):
    """Where chunks come from. `read` gives the JSON text of the next chunk, None at the end. `close` is plain, quick and
    comes once."""

    async def read(self) -> bytes | None: ...

    def close(self) -> None: ...


class _Iterator:
    __slots__ = ("ahead", "begun", "chunks", "opened", "withdraw")

    def __init__(self, chunks: Chunks, opened: float) -> None:
        self.chunks = chunks
        self.withdraw: Callable[[], None] = lambda: None
        self.opened = opened
        self.begun = False
        self.ahead: bytes | None = None  # one chunk is read ahead, so that `hasMore` is never wrong


def open_iterator(scope: Scope, chunks: Chunks, *, now: float | None = None) -> str:
    """The id of a new iterator of this call; HostError ITERATOR_LIMIT_EXCEEDED (and `chunks` closed) at the bound.
    `now` is of `time.monotonic()`."""
    table = _table(scope)
    if len(table) >= MAX_ITERATORS:
        chunks.close()
        raise HostError("ITERATOR_LIMIT_EXCEEDED", f"a call may have {MAX_ITERATORS} iterators open")
    iterator_id = f"it-{next(_numbers)}"
    iterator = table[iterator_id] = _Iterator(chunks, time.monotonic() if now is None else now)
    try:
        iterator.withdraw = scope.on_end(lambda: _close(scope, iterator_id))
    except LimitError:
        _close(scope, iterator_id)
        raise
    return iterator_id


async def next_chunk(scope: Scope, iterator_id: str, *, now: float | None = None) -> tuple[bytes, bool]:
    """The next chunk (`null` where there never was one) and whether there are more; HostError ITERATOR_NOT_FOUND where
    the id is none of this call's, spent or too old."""
    iterator = _table(scope).get(iterator_id)
    if iterator is None:
        raise HostError("ITERATOR_NOT_FOUND", f"no iterator {iterator_id[:80]!r} is open in this call")
    if (time.monotonic() if now is None else now) - iterator.opened > LIFETIME:
        _close(scope, iterator_id)
        raise HostError("ITERATOR_NOT_FOUND", f"the iterator {iterator_id} is older than {LIFETIME:.0f} s")
    try:
        if not iterator.begun:
            iterator.begun = True
            iterator.ahead = await iterator.chunks.read()
        chunk = iterator.ahead
        iterator.ahead = None if chunk is None else await iterator.chunks.read()
    except BaseException:
        _close(scope, iterator_id)
        raise
    if iterator.ahead is None:
        _close(scope, iterator_id)
    return (b"null" if chunk is None else chunk), iterator.ahead is not None


def _table(scope: Scope) -> dict[str, _Iterator]:
    table: dict[str, _Iterator] = scope.keep(_KEY, dict)
    return table


def _close(scope: Scope, iterator_id: str) -> None:
    iterator = _table(scope).pop(iterator_id, None)
    if iterator is not None:
        iterator.withdraw()
        iterator.chunks.close()
