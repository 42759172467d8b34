"""Which headers of a client a guest may see, and which headers a guest may put on an answer.

A guest is not trusted: what proves who the client is (authorization, cookies) stays outside, and so does what belongs to
the connection, the protocol and the proxies before it. On an answer a guest may not say what the server says: how the
message is framed and encoded, who may read it from another origin, what the browser keeps for this host (cookies, HSTS).
A guest that tries gets its call refused and its name in the log; nothing of it is sent.
"""

from __future__ import annotations

import logging
from functools import lru_cache

from insula.calls import Headers, ServiceId
from insula.errors import GuestError
from insula.fields import MAX_BYTES, MAX_PAIRS, fit, guest_fault
from insula.headers import TRAILER, UNSEEN, UNSEEN_PREFIXES

_log = logging.getLogger("insula.gateways")

_UNSEEN = frozenset(name.encode() for name in UNSEEN)
_UNSEEN_PREFIXES = tuple(name.encode() for name in UNSEEN_PREFIXES)


@lru_cache(maxsize=1024)
def _seen_as(name: bytes) -> str | None:
    """The name as a guest sees it, or None where it does not."""
    return None if name in _UNSEEN or name.startswith(_UNSEEN_PREFIXES) else name.decode("latin-1")


def to_guest(headers: list[tuple[bytes, bytes]]) -> Headers:
    """The client's headers that a guest may see, in order."""
    return tuple((seen, value.decode("latin-1")) for name, value in headers if (seen := _seen_as(name)) is not None)


def from_guest(service: ServiceId, headers: Headers, trailers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """What a guest set, as headers of the answer; a trailer's name begins with `trailer-`. GuestError for a header that
    cannot or may not be sent; the log names the service and the header. What `okra.context` let a guest set passes."""
    headers = tuple((name.lower(), value) for name, value in headers)
    trailers = tuple((name.lower(), value) for name, value in trailers)
    for name, value in (*headers, *trailers):
        wrong = guest_fault(name, value)
        if wrong is not None:
            raise _refused(service, name, wrong.value)
    if not fit(headers, trailers):
        raise _refused(service, "headers", f"are more than {MAX_PAIRS}, or larger than {MAX_BYTES} bytes together")
    fields = [(name.encode(), value.encode()) for name, value in headers]
    fields += [(TRAILER.encode() + name.encode(), value.encode()) for name, value in trailers]
    return tuple(fields)


def _refused(service: ServiceId, name: str, why: str) -> GuestError:
    _log.error("%s set a header that is not sent: %r %s", service, name[:80], why)
    return GuestError(
        "the service set a header that cannot be sent", reason="bad_header", hint="the server's log names the header"
    )
