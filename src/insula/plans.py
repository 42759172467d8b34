"""The plan of a method: everything about a call that is known at deploy, compiled once.

`services/` makes one Plan a method when a generation is staged. Every gateway reads the same plans, so what a method is
called, who may call it, how long and how large, and how its JSON is read stands in one place. What many services have and
few of them use, the codecs and the way into the service, is made when it is first asked for and then kept; a gateway asks
for it when it prepares for a sort of request, so that nothing here is looked up or made at each.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from insula.calls import Call, Pending, Reply, ServiceId


class Codec(Protocol):
    """One wire form of one method, JSON or protobuf binary, compiled from its schema. Used on the event loop: what is small
    is answered at once; what may take long comes as a future, which is done by the `deadline` (seconds of
    time.monotonic()). Both raise InsulaError, at once or by the future; neither ever returns half an answer."""

    def read_input(self, body: bytes, deadline: float, /) -> bytes | Future[bytes]:
        """The client's bytes -> the guest's JSON. CallerError `invalid_argument` naming the field path; LimitError where
        the body has too many values, or would become too large."""

    def write_output(self, payload: bytes, deadline: float, /) -> bytes | Future[bytes]:
        """The guest's JSON -> the client's bytes. GuestError `internal` naming the field path; LimitError."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may call a method. `authenticated` = an identity is needed; `roles` = and one of these (empty: any)."""

    authenticated: bool = False
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """One method of one deployed generation.

    `timeout` in seconds is the longest that a call may take; a client may ask for less. `max_body` in bytes is what may
    come in, after inflation. `json` gives the codec of its JSON, `binary` that of its protobuf, `entrance` the way into the
    service: a plain function, called on the event loop. `hints` has for a reason, such as `memory_limit`, what there is to
    write for this service: a gateway looks it up when it tells an error.
    """

    service: ServiceId
    method: str
    read_only: bool
    policy: Policy
    timeout: float
    max_body: int
    json: Callable[[], Codec]
    binary: Callable[[], Codec]
    entrance: Callable[[], Callable[[Call], Reply | Pending]]
    doc: str = ""
    hints: Mapping[str, str] = field(default_factory=dict)
