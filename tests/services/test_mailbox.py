from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from insula.calls import Call, ServiceId
from insula.services.mailbox import Mailbox, Ticket
from tests.services.program import ManualClock, MemoryExchange, MemoryProgram

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


async def test_the_bound() -> None:
    clock = ManualClock()
    mailbox = Mailbox(2, clock, lambda ticket: None)
    for _ in range(2):
        assert not mailbox.full
        mailbox.put(ticket(clock.now() + 1.0, asyncio.get_running_loop()))
    assert mailbox.full
