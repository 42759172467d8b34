"""Requests that are begun in one turn of the loop, shared out among tenants."""

from __future__ import annotations

import asyncio

import pytest

from insula.edge import intake as room
from insula.edge.intake import BUDGET, ROAD, Intake
from insula.interpreter import LOOK
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "monotonic", clock)
    return clock


async def test_a_turn_begins_requests_for_its_time_and_the_next_begins_anew(clock: Clock) -> None:
    intake = Intake()
    assert clock.at >= intake.until, "the first of a turn asks"
    assert not intake.is_over("a", clock.at)
    assert clock.at < intake.until, "the next ones do not"
    clock.at += BUDGET
    assert clock.at >= intake.until
    assert intake.is_over("a", clock.at)
    await asyncio.sleep(0)
    assert not intake.is_over("a", clock.at)


async def test_what_waits_comes_in_rotation_a_turns_time_at_once(clock: Clock) -> None:
    intake, begun = Intake(), list[str]()

    def begin(name: str) -> None:
        begun.append(name)
        clock.at += BUDGET * 0.6

    assert not intake.is_over("a", clock.at)
    clock.at += BUDGET
    for n in range(5):
        assert intake.is_over("a", clock.at)
        intake.wait("a", lambda n=n: begin(f"a{n}"))  # type: ignore[misc]
    assert intake.is_over("b", clock.at)
    intake.wait("b", lambda: begin("b"))
    seen: list[int] = []
    while len(begun) < 6:
        await asyncio.sleep(0)
        seen.append(len(begun))
    assert begun == ["a0", "b", "a1", "a2", "a3", "a4"]
    assert seen == [2, 4, 6]


async def test_who_comes_while_others_wait_does_not_overtake_its_own(clock: Clock) -> None:
    intake, begun = Intake(), list[int]()
    assert not intake.is_over("a", clock.at)
    clock.at += BUDGET

    def begin(n: int) -> None:
        begun.append(n)
        clock.at += BUDGET

    for n in range(3):
        intake.wait("a", lambda n=n: begin(n))  # type: ignore[misc]
    await asyncio.sleep(0)
    assert begun == [0]
    clock.at -= BUDGET / 2  # this turn has time left
    assert clock.at >= intake.until
    assert intake.is_over("a", clock.at)
    assert not intake.is_over("b", clock.at)
    for _ in range(3):
        await asyncio.sleep(0)
    assert begun == [0, 1, 2]


async def test_while_requests_come_young_objects_are_looked_at_every_few_milliseconds(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[float]()
    monkeypatch.setattr(room, "look_at_young_objects", lambda: looks.append(clock.at))
    intake, begun = Intake(), clock.at
    for n in range(12):
        clock.at = begun + n * LOOK / 4
        assert not intake.is_over("a", clock.at)
        await asyncio.sleep(0)
    assert looks == [begun, begun + LOOK, begun + 2 * LOOK]
    clock.at = begun + 10 * LOOK
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(looks) == 3, "nobody asks for anything"


async def test_work_and_requests_wait_where_the_turn_is_over(clock: Clock) -> None:
    intake, done = Intake(), list[str]()
    intake.run("a", lambda: done.append("at once"))
    assert intake.turn("b") is None
    clock.at += BUDGET
    intake.run("a", lambda: done.append("later"))
    turn, left = intake.turn("a"), intake.turn("a")
    assert turn is not None
    assert left is not None
    left.cancel()
    assert done == ["at once"]
    await turn
    assert done == ["at once", "later"]


async def test_tasks_that_go_on_later_are_counted_before_they_do(clock: Clock) -> None:
    """A turn lets no more of them go on than it has time for; their work comes after it."""
    intake, granted = Intake(), list[int]()
    waited = [asyncio.get_running_loop().create_future() for _ in range(200)]
    after = [intake.after("a", each) for each in waited]
    for each in waited:
        each.set_result("done")
    while not all(turn.done() for turn in after):
        clock.at += BUDGET  # the next turn
        before = sum(turn.done() for turn in after)
        await asyncio.sleep(0)
        granted.append(sum(turn.done() for turn in after) - before)
    assert max(granted) <= 2 * BUDGET / ROAD + 1  # the end of a turn and the beginning of the next


@pytest.mark.parametrize("late", [False, True], ids=["while it is waited for", "while its turn is waited for"])
async def test_a_client_that_leaves_takes_what_it_waits_for_with_it(
    late: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    intake = Intake()
    waited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    after = intake.after("a", waited)
    if late:
        monkeypatch.setattr(Intake, "run", lambda *_: None)  # no turn has time
        waited.set_exception(KeyError("lost"))
        await asyncio.sleep(0)
    after.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waited.cancelled() == (not late)
    assert ("KeyError: 'lost'" in caplog.text) == late
