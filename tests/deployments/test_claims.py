from __future__ import annotations

import asyncio

import pytest

from insula.deployments.claims import Claims
from insula.errors import CallerError, Code


async def test_one_change_of_a_service_at_a_time() -> None:
    claims = Claims()
    with claims.claim("a.B.v1"), claims.claim("a.B.v2"), claims.claim("a.C.v1"):
        with pytest.raises(CallerError, match="another change of") as caught, claims.claim("a.B.v1"):
            pass
        assert (caught.value.code, caught.value.http_status) == (Code.ABORTED, 409)
    with claims.claim("a.B.v1"):
        pass


@pytest.mark.parametrize("pair", [("a.b.C", "a.b.C.v1"), ("a.b.C.v1", "a.b.C")])
async def test_names_that_clash(pair: tuple[str, str]) -> None:
    claims = Claims()
    with claims.claim(pair[0]):
        with pytest.raises(CallerError, match="under way") as caught, claims.claim(pair[1]):
            pass
        assert caught.value.code is Code.ABORTED
    with pytest.raises(CallerError, match="would both answer") as caught, claims.claim(pair[1], deployed=pair):
        pass
    assert (caught.value.code, caught.value.http_status) == (Code.ALREADY_EXISTS, 409)
    with claims.claim(pair[1], deployed=[pair[1], "a.b.D"]):
        pass


async def test_waiting_for_the_end_of_all() -> None:
    claims = Claims()
    assert await claims.ended(0)
    with claims.claim("a.B.v1"):
        with claims.claim("a.C.v1"):
            assert not await claims.ended(0)
        waiting = asyncio.create_task(claims.ended(30))
        await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting
