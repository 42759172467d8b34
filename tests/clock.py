"""A clock that stands still until a test moves it, in the place of the machine's."""

from __future__ import annotations


class Clock:
    """Seconds, from `at` on. A test moves it by adding to `at`."""

    def __init__(self, at: float = 100.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at
