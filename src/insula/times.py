"""Moments as text: RFC 3339 in UTC, as logs, answers and guests get them."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def rfc3339(moment: float | None = None, *, precision: str = "milliseconds") -> str:
    """`2025-01-31T12:00:00.000Z`: a moment in Unix seconds, or now. `precision` as of `datetime.isoformat`."""
    stamp = datetime.fromtimestamp(time.time() if moment is None else moment, UTC)
    return stamp.isoformat(timespec=precision).replace("+00:00", "Z")
