from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from insula.calls import ServiceId
from insula.errors import LimitError
from insula.host.contract import Configured, HostError, Operation
from insula.host.iterators import LIFETIME, MAX_ITERATORS, next_chunk, open_iterator
from insula.host.scope import MAX_ENDINGS, Scope
from tests.host.conftest import Host, scope


class Numbers:
    """So many chunks, then the end, or an error."""

    def __init__(self, chunks: int, error: Exception | None = None) -> None:
        self.left = chunks
        self.error = error
        self.closed = 0

    async def read(self) -> bytes | None:
        if not self.left:
            if self.error is not None:
                raise self.error
            return None
        self.left -= 1
        return b"[%d]" % self.left

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_every_chunk_and_then_no_more(count: int) -> None:
    numbers, call = Numbers(count), scope()
    iterator_id = open_iterator(call, numbers)
    seen = [await next_chunk(call, iterator_id) for _ in range(count)]
    assert [chunk for chunk, _ in seen] == [b"[%d]" % number for number in reversed(range(count))]
    assert [more for _, more in seen] == [True] * (count - 1) + [False]
    assert numbers.closed == 1
    with pytest.raises(HostError) as caught:
        await next_chunk(call, iterator_id)
    assert caught.value.code == "ITERATOR_NOT_FOUND"


async def test_none_at_all() -> None:
    numbers, call = Numbers(0), scope()
    assert await next_chunk(call, open_iterator(call, numbers)) == (b"null", False)
    assert numbers.closed == 1


async def test_only_its_own_call_finds_it() -> None:
    mine, other = scope(), scope()
    iterator_id = open_iterator(mine, Numbers(3))
    with pytest.raises(HostError):
        await next_chunk(other, iterator_id)


async def test_as_many_as_a_call_may_have() -> None:
    call = scope()
    numbers = [Numbers(1) for _ in range(MAX_ITERATORS + 1)]
    for each in numbers[:-1]:
        open_iterator(call, each)
    with pytest.raises(HostError) as caught:
        open_iterator(call, numbers[-1])
    assert caught.value.code == "ITERATOR_LIMIT_EXCEEDED"
    assert [each.closed for each in numbers] == [0] * MAX_ITERATORS + [1]
    call.end()
    call.end()
    assert [each.closed for each in numbers] == [1] * (MAX_ITERATORS + 1)


async def test_one_that_is_too_old() -> None:
    numbers, call = Numbers(3), scope()
    iterator_id = open_iterator(call, numbers, now=0.0)
    assert await next_chunk(call, iterator_id, now=LIFETIME) == (b"[2]", True)
    with pytest.raises(HostError, match="older than 300 s"):
        await next_chunk(call, iterator_id, now=LIFETIME + 1)
    assert numbers.closed == 1


async def test_one_that_fails() -> None:
    numbers, call = Numbers(1, HostError("UNAVAILABLE", "gone")), scope()
    iterator_id = open_iterator(call, numbers)
    with pytest.raises(HostError, match="gone"):
        await next_chunk(call, iterator_id)
    assert numbers.closed == 1
    with pytest.raises(HostError, match="no iterator"):
        await next_chunk(call, iterator_id)
    call.end()
    assert numbers.closed == 1


async def test_one_that_is_opened_after_the_end_is_closed() -> None:
    call, numbers = scope(), Numbers(1)
    call.end()
    open_iterator(call, numbers)
    await asyncio.sleep(0)
    assert numbers.closed == 1


async def test_one_that_its_scope_has_no_room_for_is_closed() -> None:
    call, numbers = scope(), Numbers(1)
    for _ in range(MAX_ENDINGS):
        call.on_end(lambda: None)
    with pytest.raises(LimitError):
        open_iterator(call, numbers)
    assert numbers.closed == 1


class Rows(Configured):
    name = "test.rows"

    def configure(self, _service: ServiceId, _options: Mapping[str, Any], /) -> Configured:
        return self

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {"all": self.all}

    def all(self, call: Scope, parameters: bytes) -> bytes:
        return b'{"iteratorId":"%b","rows":[]}' % open_iterator(call, Numbers(2)).encode()


async def test_through_the_broker() -> None:
    host = Host(Rows())
    first = await host.ask("test.rows", "all")
    assert await host.next(first["iteratorId"]) == {"success": True, "data": [1], "hasMore": True}
    assert await host.next(first["iteratorId"]) == {"success": True, "data": [0], "hasMore": False}
    assert (await host.next(first["iteratorId"]))["error"]["code"] == "ITERATOR_NOT_FOUND"
