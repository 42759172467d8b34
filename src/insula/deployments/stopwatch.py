"""The steps of one deploy and how long each took."""

from __future__ import annotations

import time

from insula.deployments.contract import Step


class Stopwatch:
    """`done` ends a step that began when the one before it ended."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._since = time.perf_counter()

    def done(self, name: str) -> None:
        """Notes the step that is over now."""
        now = time.perf_counter()
        self.steps.append(Step(name, round((now - self._since) * 1000, 1)))
        self._since = now
