from __future__ import annotations

import pytest

from insula.services.states import MOVES, State, move


def test_every_state_is_in_the_table_and_can_be_left_but_the_last() -> None:
    assert set(MOVES) == set(State)
    assert [state for state, targets in MOVES.items() if not targets] == [State.STOPPED]


def test_a_move_that_is_not_in_the_table() -> None:
    assert move(State.STARTING, State.READY) is State.READY
    with pytest.raises(RuntimeError, match="from stopped to ready"):
        move(State.STOPPED, State.READY)
