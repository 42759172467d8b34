"""What the admin API works with: handed in by `assembly.py`, so that it reaches into nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from insula.deployments.contract import Deployments


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminParts:
    """`max_bytes` and `read_timeout` (seconds) bound an
    upload. `status` is `healthy` or a word for why not. `metrics` gives the Prometheus text, `health` the body of
    `/health`; without them these routes are not there. `public_url` is where services answer."""

    deployments: Deployments
    version: str
    max_bytes: int
    read_timeout: float
    status: Callable[[], str] = lambda: "healthy"
    public_url: Callable[[], str] = lambda: ""
    health: Callable[[], dict[str, Any]] | None = None
    metrics: Callable[[], Awaitable[bytes]] | None = None
