"""Moments as text."""

from __future__ import annotations

import re
import time
from datetime import datetime

from insula.times import rfc3339


def test_a_moment_in_utc() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_738_324_800.1239) == "2025-01-31T12:00:00.123Z"
    assert rfc3339(1_738_324_800.9, precision="seconds") == "2025-01-31T12:00:00Z"


def test_now() -> None:
    told = rfc3339()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told)
    assert abs(datetime.fromisoformat(told).timestamp() - time.time()) < 5
