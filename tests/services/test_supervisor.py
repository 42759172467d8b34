from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from insula.services.supervisor import FIRST, LONGEST, Supervisor
from tests.services.program import ManualClock


@given(st.integers(1, 2000), st.floats(0, 1))
def test_the_delay_grows_and_has_an_end(failures: int, chance: float) -> None:
    supervisor = Supervisor(ManualClock(), lambda: chance)
    delays = [supervisor.failed() for _ in range(failures)]
    assert delays == sorted(delays)
    assert FIRST / 2 <= delays[0] <= FIRST
    assert delays[-1] <= LONGEST
    assert abs(supervisor.wait() - delays[-1]) < 1e-9
    supervisor.succeeded()
    assert supervisor.wait() == 0
    assert supervisor.failed() == delays[0], "one start that worked ends the back-off"
