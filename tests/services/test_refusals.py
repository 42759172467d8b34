"""What callers are told where a call is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from insula.calls import Reply
from insula.errors import CallerError, Code, InsulaError, LimitError
from tests.services.conftest import Bench
from tests.services.program import MemoryInstance, echo

Make = Callable[..., Awaitable[Bench]]


async def test_unknown_method(bench: Make) -> None:
    each = await bench(echo)
    with pytest.raises(CallerError, match="has no method 'nothing'") as caught:
        each.submit(method="nothing")
    assert caught.value.code is Code.UNIMPLEMENTED
    assert each.service.counts.errors == {Code.UNIMPLEMENTED: 1}


async def test_streaming_method(bench: Make) -> None:
    each = await bench(echo)
    with pytest.raises(CallerError, match="is a streaming method") as caught:
        each.submit(method="watch")
    assert caught.value.code is Code.UNIMPLEMENTED


async def test_a_mistake_of_the_engine_is_internal_and_tells_nothing(
    bench: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def guest(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes:
        raise RuntimeError("secret of the house")

    each = await bench(guest)
    with pytest.raises(InsulaError) as caught:
        each.submit()
    assert caught.value.code is Code.INTERNAL
    assert "secret" not in str(caught.value)
    assert "secret of the house" in caplog.text


async def test_a_cycle_of_services(bench: Make) -> None:
    each = await bench(echo)
    with pytest.raises(LimitError) as caught:
        each.submit(path=("shop.Orders.v1", "shop.Stock.v1"))
    assert caught.value.reason == "call_cycle"
    assert "shop.Orders.v1 -> shop.Stock.v1 -> shop.Orders.v1" in str(caught.value)


async def test_a_call_through_too_many_services(bench: Make) -> None:
    each = await bench(echo, max_depth=2)
    assert each.submit(path=("a.A.v1", "a.B.v1")) == Reply(b"{}")
    with pytest.raises(LimitError) as caught:
        each.submit(path=("a.A.v1", "a.B.v1", "a.C.v1"))
    assert caught.value.reason == "call_depth"
