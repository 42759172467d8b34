"""What a service counts: plain integers that the metrics page reads, and that cost the hot path next to nothing."""

from __future__ import annotations

from insula.errors import Code


class Counts:
    """All from zero, all only upwards.

    `calls` every call that was submitted, refused ones too; `errors` by code; `traps` instances lost to a trap, an exit,
    a missed deadline or a cancelled call; `starts` and `failed_starts` of instances; `passivated` instances closed for
    being idle; `waits` calls that left the mailbox for an instance and `wait_us` the microseconds that they waited,
    together.
    """

    __slots__ = ("calls", "errors", "failed_starts", "passivated", "starts", "traps", "wait_us", "waits")

    def __init__(self) -> None:
        self.calls = 0
        self.errors: dict[Code, int] = {}
        self.traps = 0
        self.starts = 0
        self.failed_starts = 0
        self.passivated = 0
        self.waits = 0
        self.wait_us = 0

    def failed(self, code: Code) -> None:
        """One call that ended in this code."""
        self.errors[code] = self.errors.get(code, 0) + 1
