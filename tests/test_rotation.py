"""Rotation: nobody waits for more than one job of each other, and nothing is lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from insula.rotation import Rotation

TENANTS = "abcd"


def rotation(*jobs: str) -> Rotation[str, str]:
    """Jobs by their names, whose first letter is the tenant."""
    made: Rotation[str, str] = Rotation()
    for job in jobs:
        made.put(job[0], job)
    return made


def taken(waiting: Rotation[str, str], where: Callable[[str], bool] | None = None) -> list[str]:
    jobs = []
    while (next_one := waiting.take(where)) is not None:
        jobs.append(next_one[1])
    return jobs


class Rotating(RuleBasedStateMachine):
    """Against a list for each tenant. `passed` counts whose jobs were taken while a tenant could have had its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.rotation: Rotation[str, int] = Rotation()
        self.model: dict[str, deque[int]] = {}
        self.passed: dict[str, Counter[str]] = {}
        self.made = 0

    def forget_if_empty(self, key: str) -> None:
        if not self.model[key]:
            del self.model[key]
            self.passed.pop(key, None)

    @rule(key=st.sampled_from(TENANTS))
    def put(self, key: str) -> None:
        self.made += 1
        self.rotation.put(key, self.made)
        self.model.setdefault(key, deque()).append(self.made)

    @rule(allowed=st.none() | st.sets(st.sampled_from(TENANTS)))
    def take(self, allowed: set[str] | None) -> None:
        may = set(TENANTS) if allowed is None else allowed
        first = self.rotation.peek()
        got = self.rotation.take(None if allowed is None else allowed.__contains__)
        if allowed is None:
            assert got == first
        if got is None:
            assert not may & self.model.keys()
            return
        key, job = got
        assert key in may
        assert job == self.model[key].popleft()
        self.passed.pop(key, None)
        for other in self.model.keys() & may - {key}:
            count = self.passed.setdefault(other, Counter())
            count[key] += 1
            assert count[key] == 1, f"{other} waits for two jobs of {key}"
        self.forget_if_empty(key)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        job = data.draw(st.sampled_from(sorted(self.model[key])))
        assert self.rotation.withdraw(key, job)
        self.model[key].remove(job)
        self.forget_if_empty(key)
        assert not self.rotation.withdraw(key, job)

    @rule(key=st.sampled_from(TENANTS))
    def postpone(self, key: str) -> None:
        self.rotation.postpone(key)
        self.passed.pop(key, None)
        if key in self.model:
            assert list(self.rotation.tenants)[-1] == key

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.rotation) == sum(map(len, self.model.values()))
        assert set(self.rotation.tenants) == self.model.keys()
        for key in TENANTS:
            assert (key in self.rotation) is (key in self.model)
            assert list(self.rotation.waiting(key)) == list(self.model.get(key, ()))


TestRotating = Rotating.TestCase


@given(st.lists(st.sampled_from(TENANTS), max_size=60))
def test_every_tenants_first_job_comes_before_any_second_and_so_on(tenants: list[str]) -> None:
    order = taken(rotation(*(f"{key}{number}" for number, key in enumerate(tenants))))
    seen: Counter[str] = Counter()
    rounds = []
    for job in order:
        seen[job[0]] += 1
        rounds.append(seen[job[0]])
    assert rounds == sorted(rounds)
    assert seen == Counter(tenants)


def test_one_with_many_delays_the_next_by_one() -> None:
    assert taken(rotation("a1", "a2", "a3", "b1", "a4", "c1")) == ["a1", "b1", "c1", "a2", "a3", "a4"]


def test_who_is_passed_over_keeps_its_place() -> None:
    waiting = rotation("a1", "a2", "b1", "b2", "c1")
    assert waiting.take(lambda key: key != "a") == ("b", "b1")
    assert waiting.take(lambda key: key == "d") is None
    assert taken(waiting) == ["a1", "c1", "b2", "a2"]


def test_who_is_postponed_stands_last() -> None:
    waiting = rotation("a1", "a2", "b1", "c1")
    waiting.postpone("a")
    waiting.postpone("d")
    assert taken(waiting) == ["b1", "c1", "a1", "a2"]


def test_who_has_withdrawn_all_begins_at_the_end() -> None:
    waiting = rotation("a1", "b1")
    assert waiting.withdraw("a", "a1")
    assert not waiting.withdraw("a", "a1")
    assert not waiting.withdraw("b", "a1")
    waiting.put("a", "a2")
    assert taken(waiting) == ["b1", "a2"]
    assert waiting.peek() is None
    assert not waiting


def test_the_view_of_tenants_is_live() -> None:
    waiting = rotation()
    tenants = waiting.tenants
    waiting.put("a", "a1")
    assert "a" in tenants
    waiting.take()
    assert not tenants
