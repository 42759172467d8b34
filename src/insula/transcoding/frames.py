"""The frames between the server and a codec process: a job and its body one way, an answer and its body the other.

A frame is the lengths of its two parts (4 and 8 bytes, little endian), a msgpack head, and a body as it is. Before its
first frame a process sends its `fingerprint`: it was started from the source as it is on the disk, which may be another
than the one that the server runs.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import struct
from typing import Protocol, TypeVar

import msgspec

import insula
from insula.errors import (
    CallerError,
    Code,
    ConfigurationError,
    DeadlineError,
    GuestError,
    InsulaError,
    LimitError,
    PackageError,
    UnavailableError,
)
from insula.schema.bounds import Bounds
from insula.schema.model import Schema

LENGTHS = struct.Struct("<IQ")

T = TypeVar("T")


class Work(enum.IntEnum):
    """The conversion that a job asks for."""

    READ_JSON = 0
    WRITE_JSON = 1
    READ_BINARY = 2
    WRITE_BINARY = 3


#: Those of a guest's answer.
WRITES = frozenset((Work.WRITE_JSON, Work.WRITE_BINARY))


class Job(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One job. `key` names a schema with its bounds; `schema` is the msgpack of it where the process does not have it yet.
    `seconds` is the time after which nobody waits any more."""

    key: str
    method: str
    work: Work
    bounds: Bounds
    seconds: float
    schema: bytes = b""


class Refusal(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An InsulaError on its way back."""

    kind: str
    code: Code
    message: str
    reason: str | None
    hint: str | None
    status: int


class Answer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The outcome of a job. `refusal` is its InsulaError; `out_of_memory` is true if the process had too little memory;
    `broken` is the traceback of any other error, for the log. If none is set, the answer's body follows."""

    refusal: Refusal | None = None
    out_of_memory: bool = False
    broken: str = ""


_KINDS: dict[str, type[InsulaError]] = {
    kind.__name__: kind
    for kind in (
        InsulaError,
        CallerError,
        PackageError,
        ConfigurationError,
        GuestError,
        LimitError,
        DeadlineError,
        UnavailableError,
    )
}


def refusal_of(error: InsulaError) -> Refusal:
    """An error as it goes through the pipe."""
    kind = type(error).__name__
    return Refusal(
        kind if kind in _KINDS else "InsulaError",
        error.code,
        error.message,
        error.reason,
        error.hint,
        error.http_status,
    )


def error_of(refusal: Refusal) -> InsulaError:
    """The error that came through the pipe."""
    return _KINDS[refusal.kind](
        refusal.message, code=refusal.code, reason=refusal.reason, hint=refusal.hint, status=refusal.status
    )


#: Bytes of a fingerprint.
FINGERPRINT = 16


@functools.cache
def fingerprint() -> bytes:
    """What both sides have to agree on: the version of the server, and the shape of all that goes through the pipes."""
    from msgspec.inspect import multi_type_info  # for the rare process that has a large body

    shapes = repr(multi_type_info((Job, Answer, Schema)))
    return hashlib.sha256(f"{insula.__version__} {shapes}".encode()).digest()[:FINGERPRINT]


class Pipe(Protocol):
    """A buffered binary file."""

    def read(self, size: int = ..., /) -> bytes: ...
    def write(self, data: bytes, /) -> int: ...
    def flush(self) -> None: ...


def send(pipe: Pipe, head: Job | Answer, body: bytes) -> None:
    """Writes one frame."""
    packed = msgspec.msgpack.encode(head)
    pipe.write(LENGTHS.pack(len(packed), len(body)) + packed)
    pipe.write(body)
    pipe.flush()


def receive(pipe: Pipe, decoder: msgspec.msgpack.Decoder[T]) -> tuple[T, bytes] | None:
    """Reads one frame; None where the other side has ended."""
    lengths = pipe.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    head_size, body_size = LENGTHS.unpack(lengths)
    head = pipe.read(head_size)
    body = pipe.read(body_size) if body_size else b""
    if len(head) < head_size or len(body) < body_size:
        return None
    return decoder.decode(head), body
