"""A request once it is inside: `Call` in, `Reply` out, and the `Dispatcher` that everyone who calls a service sees.

A gateway makes a Call once; from there on no room knows which protocol it came by. A Call is plain data: `encode_call`
and `decode_call` carry it to another process, with the time that remains in place of the absolute deadline, since the
clocks of two machines have nothing to do with each other.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from insula.errors import CallerError

#: Ordered pairs; names are lower case. A name may come twice (two cookies are two pairs), so this is never a dict.
Headers: TypeAlias = tuple[tuple[str, str], ...]

_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
_SERVICE_ID = re.compile(rf"({_IDENTIFIER}(?:\.{_IDENTIFIER})*)\.({_IDENTIFIER})\.({_IDENTIFIER})")
MAX_NAME = 256


class ServiceId(NamedTuple):
    """`{namespace}.{name}.{version}`, for example `shop.Orders.v1`; the namespace may itself have dots."""

    namespace: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}.{self.version}"

    @property
    def unversioned(self) -> str:
        """`{namespace}.{name}`: what a call names to reach the latest version."""
        return f"{self.namespace}.{self.name}"

    @classmethod
    def parse(cls, text: str) -> ServiceId:
        """The parts of a full id; CallerError where the text is not one."""
        match = _SERVICE_ID.fullmatch(text) if len(text) <= MAX_NAME else None
        if match is None:
            raise CallerError(
                f"{text[:80]!r} is not a service id", hint="a service id is namespace.Name.version: shop.Orders.v1"
            )
        return cls(*match.groups())


T = TypeVar("T")


def written_for(service: ServiceId, tables: Mapping[str, T]) -> dict[str, T]:
    """What an operator wrote for a service, by the key that it stands under, the least specific first: `*`, the name
    without version, the full id. Where one key is in several of them, the last counts."""
    return {key: tables[key] for key in ("*", service.unversioned, str(service)) if key in tables}


class Principal(msgspec.Struct, frozen=True, gc=False):
    """Who calls, once a rule of admission has proved it."""

    subject: str
    roles: tuple[str, ...] = ()


class Call(msgspec.Struct, frozen=True):
    """One call of one method.

    `payload` is the JSON text of the method's input, validated and normalised by the gateway's codec. `deadline` is
    absolute, in seconds of `time.monotonic()`. `metadata` is what the client sent as headers and the guest may see.
    `path` names the services that this call has come through (okra.call), outermost first: its length is the depth.
    """

    service: ServiceId
    method: str
    payload: bytes
    deadline: float
    metadata: Headers = ()
    principal: Principal | None = None
    request_id: str = ""
    traceparent: str = ""
    idempotency_key: str = ""
    path: tuple[str, ...] = ()

    def remaining(self) -> float:
        """Seconds until the deadline; zero or less once it has passed."""
        return self.deadline - time.monotonic()


class Reply(msgspec.Struct, frozen=True):
    """What the guest answered: JSON of the output type, and the metadata that it set before and after it."""

    payload: bytes
    headers: Headers = ()
    trailers: Headers = ()


#: A reply that is not there yet. Cancelling it tells the service that nobody waits any more. It fails with InsulaError.
Pending: TypeAlias = "asyncio.Future[Reply]"


class Dispatcher(Protocol):
    """Everyone who calls a service sees this and nothing else of it."""

    def submit(self, call: Call) -> Reply | Pending:
        """Answers at once, or later, or raises InsulaError (unknown service, full mailbox, draining)."""


class _WireCall(msgspec.Struct, array_like=True, frozen=True):
    service: ServiceId
    method: str
    payload: bytes
    remaining_ms: float
    metadata: Headers
    principal: Principal | None
    request_id: str
    traceparent: str
    idempotency_key: str
    path: tuple[str, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_WireCall)


def encode_call(call: Call) -> bytes:
    """The call as msgpack, with the time that remains (ms) in place of the deadline."""
    return _encoder.encode(
        _WireCall(
            call.service,
            call.method,
            call.payload,
            call.remaining() * 1000,
            call.metadata,
            call.principal,
            call.request_id,
            call.traceparent,
            call.idempotency_key,
            call.path,
        )
    )


def decode_call(data: bytes) -> Call:
    """The call that `encode_call` wrote, its deadline counted from now; CallerError where the bytes are not one."""
    try:
        wire = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise CallerError("not an encoded call") from error
    return Call(
        wire.service,
        wire.method,
        wire.payload,
        time.monotonic() + wire.remaining_ms / 1000,
        wire.metadata,
        wire.principal,
        wire.request_id,
        wire.traceparent,
        wire.idempotency_key,
        wire.path,
    )
