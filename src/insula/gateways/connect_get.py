"""Connect over GET: the query of a read-only method, read within bounds.

`?connect=v1&encoding=json|proto&message=…[&base64=1][&compression=gzip|zstd|br]`. Without `connect=v1` the same works for
people and plain tools: the encoding is JSON where none is named, and a method that takes nothing needs no message.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from insula.edge.compression import codings_of, inflate, is_slow
from insula.edge.exchange import HttpError
from insula.errors import CallerError

_MAX_PAIRS = 32
#: Bytes that a message may have after inflation. Those of slow codings are inflated in a thread, others on the event
#: loop.
MAX_INFLATED = 262_144
_KNOWN = frozenset((b"connect", b"encoding", b"message", b"base64", b"compression"))


class Query(NamedTuple):
    """A message that came in a query: `proto` says in which codec. `message` has no base64 on it; `codings` are to undo."""

    proto: bool
    message: bytes
    codings: list[bytes]

    @property
    def slow(self) -> bool:
        """Whether inflating it may take long."""
        return is_slow(self.codings)

    def inflated(self, limit: int) -> bytes:
        """The message without its codings, at most `limit` bytes."""
        if not self.codings or not self.message:
            return self.message
        return inflate(self.codings, self.message, min(limit, MAX_INFLATED))


def _pairs(query: bytes) -> dict[bytes, bytes]:
    pairs: dict[bytes, bytes] = {}
    parts = query.split(b"&", _MAX_PAIRS)
    if len(parts) > _MAX_PAIRS:
        raise CallerError(f"a query may have {_MAX_PAIRS} parameters")
    for part in parts:
        name, _, value = part.partition(b"=")
        name = unquote_to_bytes(name.replace(b"+", b" "))
        if name not in _KNOWN:
            continue
        if name in pairs:
            raise CallerError(f"the query parameter {name.decode()} is there twice")
        pairs[name] = unquote_to_bytes(value.replace(b"+", b" "))
    return pairs


def _from_base64(text: bytes) -> bytes:
    """URL-safe or standard alphabet, with or without padding."""
    text = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise CallerError(
            "the query parameter message is not base64", hint="leave base64=1 out for plain text"
        ) from None


def read_query(query: bytes) -> Query:
    """The message of a GET. CallerError `invalid_argument` for what is not one."""
    pairs = _pairs(query)
    version = pairs.get(b"connect")
    if version is not None and version != b"v1":
        raise CallerError("the query parameter connect is not v1")
    encoding = pairs.get(b"encoding", b"json" if version is None else b"")
    if encoding not in (b"json", b"proto"):
        raise HttpError("the query parameter encoding is neither json nor proto", 415)
    proto = encoding == b"proto"
    message = pairs.get(b"message")
    if message is None:
        if version is not None:
            raise CallerError("the query has no parameter message", hint="a message is JSON: message=%7B%7D")
        message = b"" if proto else b"{}"
    if pairs.get(b"base64", b"0") not in (b"0", b"1", b""):
        raise CallerError("the query parameter base64 is not 1")
    if pairs.get(b"base64") == b"1":
        message = _from_base64(message)
    return Query(proto, message, codings_of(pairs.get(b"compression")))
