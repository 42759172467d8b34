from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from insula.calls import Call, ServiceId
from insula.services.clock import LoopClock
from insula.services.mailbox import BATCH, Mailbox, Ticket
from tests.services.program import ManualClock, MemoryExchange, MemoryProgram, settle

ID = ServiceId("shop", "Orders", "v1")


def ticket(deadline: float, loop: asyncio.AbstractEventLoop) -> Ticket:
    return Ticket(
        Call(ID, "work", b"", deadline),
        MemoryProgram(lambda *_: b"").runner(MemoryExchange("work")),
        loop.create_future(),
        0.0,
    )


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(1, 50)),
            st.tuples(st.just("take"), st.just(0)),
            st.tuples(st.just("remove"), st.integers(0, 20)),
            st.tuples(st.just("cancel"), st.integers(0, 20)),
            st.tuples(st.just("wait"), st.integers(1, 20)),
        ),
        max_size=60,
    )
)
def test_against_a_plain_list(steps: list[tuple[str, int]]) -> None:
    """Whatever happens, in whatever order: first in, first out, and each ticket leaves by exactly one door."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        clock = ManualClock()
        expired: list[Ticket] = []
        mailbox = Mailbox(1000, clock, expired.append)
        model: list[Ticket] = []
        for action, number in steps:
            if action == "put":
                model.append(ticket(clock.now() + number, loop))
                mailbox.put(model[-1])
            elif action == "take":
                alive = [each for each in model if not each.pending.done()]
                taken = mailbox.take()
                assert taken is (alive[0] if alive else None)
                model = model[model.index(taken) + 1 :] if taken else []
            elif action == "remove" and model:
                assert mailbox.remove(model[number % len(model)])
                assert not mailbox.remove(model.pop(number % len(model)))
            elif action == "cancel" and model:
                model[number % len(model)].pending.cancel()
            elif action == "wait":
                expired.clear()
                await clock.advance(number)
                due = [each for each in model if each.call.deadline <= clock.now()]
                assert set(expired) == set(due)
                model = [each for each in model if each not in due]
            assert len(mailbox) == len(model)
        assert clock.pending <= 1, "one timer, however many wait"
        assert mailbox.clear() == model
        assert clock.pending == 0

    asyncio.run(run())


async def test_deadlines_of_those_that_left_are_swept_out() -> None:
    clock = ManualClock()
    loop = asyncio.get_running_loop()
    mailbox = Mailbox(10, clock, lambda ticket: None)
    mailbox.put(ticket(clock.now() + 1.0, loop))  # one that stays, so that the mailbox is never empty
    for _ in range(10_000):
        passing = ticket(clock.now() + 1000.0, loop)
        mailbox.put(passing)
        mailbox.remove(passing)
    assert len(mailbox._deadlines) < 200


class StillClock(LoopClock):
    """The timers of the loop, and a time that does not go on."""

    @staticmethod
    def now() -> float:
        return 1000.0


class Turns:
    """What was expired, in which turn of the loop."""

    def __init__(self) -> None:
        self.turn = 0
        self.told: list[Ticket] = []
        self.in_turn = Counter[int]()

    def __call__(self, expired: Ticket) -> None:
        self.told.append(expired)
        self.in_turn[self.turn] += 1

    async def until(self, number: int) -> None:
        while len(self.told) < number:
            self.turn += 1
            await asyncio.sleep(0)


async def test_of_those_with_one_deadline_a_bounded_number_is_expired_in_a_turn() -> None:
    clock, turns, loop = StillClock(), Turns(), asyncio.get_running_loop()
    mailbox = Mailbox(3000, clock, turns)
    tickets = [ticket(clock.now(), loop) for _ in range(10 * BATCH)]
    for each in tickets:
        mailbox.put(each)
    mailbox.put(last := ticket(clock.now() + 1000.0, loop))
    gone = tickets.pop(BATCH // 2)
    assert mailbox.remove(gone)
    await turns.until(len(tickets))
    assert max(turns.in_turn.values()) <= BATCH
    assert turns.told == tickets, "in order of arrival, each once"
    await settle()
    assert turns.told == tickets
    assert mailbox.take() is last
    assert mailbox._timer is None


async def test_what_an_instance_finds_late_is_expired_in_bounded_turns_too() -> None:
    clock, turns, loop = StillClock(), Turns(), asyncio.get_running_loop()
    mailbox = Mailbox(3000, clock, turns)
    tickets = [ticket(clock.now(), loop) for _ in range(3 * BATCH)]
    for each in tickets:
        mailbox.put(each)
    mailbox.put(last := ticket(clock.now() + 1000.0, loop))
    assert mailbox.take() is last, "it passes over those that are late"
    assert not len(mailbox)
    await turns.until(len(tickets))
    assert max(turns.in_turn.values()) <= BATCH
    assert turns.told == tickets
    assert mailbox._timer is None


async def test_what_is_late_when_all_are_taken_out_is_told_so() -> None:
    clock, turns, loop = StillClock(), Turns(), asyncio.get_running_loop()
    mailbox = Mailbox(10, clock, turns)
    mailbox.put(late := ticket(clock.now(), loop))
    assert mailbox.take() is None
    assert turns.told == []
    assert mailbox.clear() == []
    assert turns.told == [late]
    assert mailbox._timer is None


async def test_the_bound() -> None:
    clock = ManualClock()
    mailbox = Mailbox(2, clock, lambda ticket: None)
    for _ in range(2):
        assert not mailbox.full
        mailbox.put(ticket(clock.now() + 1.0, asyncio.get_running_loop()))
    assert mailbox.full
