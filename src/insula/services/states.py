"""The states of a service and the moves between them.

    starting --> ready <--> degraded
        \\          \\           /
         \\          +--> draining
          \\                |
           +----------> stopped  (from any state)

starting: no instance has come up yet; no call is taken.
ready: calls are taken.
degraded: the last instance that was to start failed. Calls are taken while an instance lives; the next start waits for
the supervisor's back-off, and one instance that starts makes the service ready again.
draining: no new call is taken; those already accepted finish.
stopped: nothing runs, nothing waits, every instance is closed. The end.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """The value is the name that lists and metrics show."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    STOPPED = "stopped"


MOVES: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.READY, State.STOPPED}),
    State.READY: frozenset({State.DEGRADED, State.DRAINING, State.STOPPED}),
    State.DEGRADED: frozenset({State.READY, State.DRAINING, State.STOPPED}),
    State.DRAINING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset(),
}


def move(current: State, target: State) -> State:
    """The target, where the table has the move; RuntimeError where it has not, which is a mistake of this server."""
    if target not in MOVES[current]:
        raise RuntimeError(f"a service cannot go from {current.value} to {target.value}")
    return target
