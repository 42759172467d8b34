"""Whose turn it is, and who has how many places."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.errors import LimitError
from insula.storage.turns import MAX_BYTES, SERVER, Places, Turns


class Job(NamedTuple):
    tenant: str
    number: int


@given(st.lists(st.sampled_from([SERVER, "a", "b", "c"]), max_size=60))
def test_each_tenant_in_turn_and_the_server_first(tenants: list[str]) -> None:
    turns: Turns[Job] = Turns()
    for number, tenant in enumerate(tenants):
        turns.put(Job(tenant, number))
    assert len(turns) == len(tenants)
    order = [turns.take() for _ in tenants]
    assert not turns
    own = tenants.count(SERVER)
    assert all(job.tenant == SERVER for job in order[:own])
    rounds: dict[str, int] = {}
    for job in order[own:]:
        rounds[job.tenant] = rounds.get(job.tenant, 0) + 1
        waiting = [other for other in set(tenants) - {SERVER} if tenants.count(other) > rounds.get(other, 0)]
        assert all(rounds[job.tenant] - rounds.get(other, 0) <= 1 for other in waiting)
    for tenant in set(tenants):
        numbers = [job.number for job in order if job.tenant == tenant]
        assert numbers == sorted(numbers)
    with pytest.raises(IndexError):
        turns.take()


def fill(places: Places, tenant: str) -> None:
    for _ in range(16):
        places.enter(tenant)


def test_places_are_shared_and_given_back() -> None:
    places = Places(16, "writes")
    for _ in range(7):
        places.enter("a", 10)
    for tenant in ("a", SERVER):
        with pytest.raises(LimitError, match="places of the 16"):
            fill(places, tenant)
    places.enter("b", MAX_BYTES // 4)
    with pytest.raises(LimitError, match="bytes of the"):
        places.enter("b", MAX_BYTES // 2)
    places.leave("b", MAX_BYTES // 4)
    for _ in range(7):
        places.leave("a", 10)
    for _ in range(5):
        places.enter("a", 10)
