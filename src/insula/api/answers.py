"""Two answers of the admin port that are given with FastAPI and without it: its health, and a failure nobody foresaw."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from insula.api.parts import AdminParts
from insula.errors import InsulaError

HEALTH = "/api/v1/health"


def health_answer(parts: AdminParts) -> tuple[int, bytes]:
    """Status and body of `/api/v1/health`: 200 where the status is `healthy`, else 503."""
    status = parts.status()
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return 200 if status == "healthy" else 503, msgspec.json.encode({"status": status, "time": now})


def unforeseen() -> InsulaError:
    """What a client is told of an exception that nobody foresaw: nothing of it."""
    return InsulaError("internal error", hint="the log of the server says more")
