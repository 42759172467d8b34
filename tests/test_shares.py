"""Shares: who is refused is who took it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.shares import Shares


def filled(shares: Shares[str], key: str) -> int:
    """How many units a tenant gets that takes all it can."""
    count = 0
    while shares.take(key):
        count += 1
    return count


def test_one_tenant_alone_gets_half() -> None:
    assert filled(Shares(1000), "a") == 500


def test_a_greedy_tenant_leaves_room_for_the_next_ones() -> None:
    shares: Shares[str] = Shares(1024)
    assert [filled(shares, key) for key in ("a", "b", "c")] == [512, 256, 128]
    assert shares.take("newcomer")


def test_greedy_tenants_come_to_equal_shares() -> None:
    shares: Shares[str] = Shares(1000)
    for _ in range(5000):
        for key in "abcd":
            while shares.take(key):
                pass
            if shares.used(key) > 1:
                shares.give(key)
    assert all(abs(shares.used(key) - 200) <= 2 for key in "abcd")


def test_the_reserve_is_no_tenants() -> None:
    shares: Shares[str] = Shares(100, reserve=20)
    assert shares.free == 80
    assert filled(shares, "a") == 40


def test_a_large_item_is_one_tenants_or_refused() -> None:
    shares: Shares[str] = Shares(100)
    assert shares.has_room("a", 100)
    assert not shares.has_room("a", 101)
    assert shares.take("a", 60)
    assert not shares.take("a", 1)
    assert shares.take("b", 40)
    assert shares.free == 0


def test_what_can_no_longer_be_refused_goes_beyond_the_share() -> None:
    shares: Shares[str] = Shares(10)
    for _ in range(12):
        shares.take_anyway("a")
    assert not shares.has_room("b")
    assert shares.free == -2
    shares.give("a", 12)
    assert shares.free == 10


def test_giving_back_what_was_not_taken_is_an_error() -> None:
    with pytest.raises(KeyError):
        Shares[str](10).give("a")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40), st.booleans()), max_size=200))
def test_nothing_is_lost_or_made(steps: list[tuple[str, int, bool]]) -> None:
    shares: Shares[str] = Shares(100)
    held: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for key, units, takes in steps:
        if takes:
            room = shares.has_room(key, units)
            assert shares.take(key, units) is room
            if room:
                held[key].append(units)
        elif held[key]:
            shares.give(key, held[key].pop())
        assert shares.free == 100 - sum(map(sum, held.values())) >= 0
        assert all(shares.used(key) == sum(units) for key, units in held.items())
