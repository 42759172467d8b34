"""The plan of a method: everything about a call that is known at deploy, compiled once.

`services/` makes one Plan a method when a generation is staged. Every gateway reads the same plans, so what a method is
called, who may call it, how long and how large, and how its JSON is read stands in one place. What many services have and
few of them use, the codecs and the way into the service, is made when it is first asked for and then kept; a gateway asks
for it when it prepares for a sort of request, so that nothing here is looked up or made at each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from insula.calls import Call, Pending, Reply, ServiceId


class JsonCodec(Protocol):
    """JSON of one method, compiled from its schema. Both raise InsulaError; neither ever returns half an answer."""

    def read_input(self, body: bytes) -> bytes:
        """The client's JSON -> the guest's. CallerError `invalid_argument` naming the field path."""

    def write_output(self, payload: bytes) -> bytes:
        """The guest's JSON -> the client's. GuestError `internal` naming the field path."""


class BinaryCodec(Protocol):
    """Protobuf binary of one method. Same errors as JsonCodec."""

    def read_input(self, body: bytes) -> bytes:
        """The client's protobuf binary -> the guest's JSON."""

    def write_output(self, payload: bytes) -> bytes:
        """The guest's JSON -> protobuf binary for the client."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may call a method. `authenticated` = an identity is needed; `roles` = and one of these (empty: any)."""

    authenticated: bool = False
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """One method of one deployed generation.

    `timeout` in seconds is the longest that a call may take; a client may ask for less. `max_body` in bytes is what may
    come in, after inflation. `json` gives the codec of its JSON, `binary` that of its protobuf (the store of those is
    bounded), `entrance` the way into the service: a plain function, called on the event loop.
    """

    service: ServiceId
    method: str
    read_only: bool
    policy: Policy
    timeout: float
    max_body: int
    json: Callable[[], JsonCodec]
    binary: Callable[[], BinaryCodec]
    entrance: Callable[[], Callable[[Call], Reply | Pending]]
    doc: str = ""
