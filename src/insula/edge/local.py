"""What keeps a web page away from a port of this machine, and a stranger away from a port with a token.

A browser takes any page's requests to 127.0.0.1. It tells on them: a page of another site sends a foreign `Origin` or
`Sec-Fetch-Site`, and a page whose own name was bent to 127.0.0.1 sends that name as `Host`. All three are looked at, for
every method. Programs send none of them, or their own address, and pass. For any port, as rules of its admission.
"""

from __future__ import annotations

import hmac
import re

from insula.edge.exchange import Head, Route
from insula.errors import CallerError, Code, InsulaError
from insula.loopback import is_loopback

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?", re.ASCII)


def _all(head: Head, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in head.headers if key == name]


def _is_local(authority: str) -> bool:
    """Whether `name:port` is a loopback name. The port may be any: it is another one where this one is forwarded."""
    match = _AUTHORITY.fullmatch(authority)
    return match is not None and is_loopback(match[1])


def check_host(head: Head) -> InsulaError | None:
    """Refuses a request that was not meant for this machine by name or by loopback address."""
    hosts = _all(head, b"host")
    if len(hosts) == 1 and _is_local(hosts[0]):
        return None
    return CallerError(
        "without a token this port answers to localhost alone",
        code=Code.PERMISSION_DENIED,
        reason="bad_host",
        hint="call it as http://127.0.0.1 or http://localhost, or start the server with INSULA_ADMIN__TOKEN set",
    )


def check_origin(head: Head) -> InsulaError | None:
    """Refuses what a page of another origin sends; no Origin at all is a program, or the address bar. Our own pages have
    the origin that they asked for as Host."""
    own = [f"http://{host}".lower() for host in _all(head, b"host")]
    foreign = any(origin.lower() not in own for origin in _all(head, b"origin")) or any(
        site.lower() not in ("same-origin", "none") for site in _all(head, b"sec-fetch-site")
    )
    if not foreign:
        return None
    return CallerError(
        "a web page of another origin may not use this port",
        code=Code.PERMISSION_DENIED,
        reason="bad_origin",
        hint="start the server with INSULA_ADMIN__TOKEN set and send the token",
    )


def check_token(head: Head, token: str) -> InsulaError | None:
    """Refuses a request without `Authorization: Bearer` and this token. The time it takes tells nothing of the token."""
    given = _all(head, b"authorization")
    scheme, _, value = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() == "bearer" and hmac.compare_digest(value.strip().encode(), token.encode()):
        return None
    return InsulaError(
        "this port needs its token" if not given else "this is not the token of this port",
        code=Code.UNAUTHENTICATED,
        hint="send Authorization: Bearer …, or give the command line --token or INSULA_ADMIN__TOKEN",
    )


class Token:
    """The rule of a port with a token: every path but the `open_paths`, as they are written there, asks for it."""

    def __init__(self, token: str, open_paths: frozenset[bytes] = frozenset()) -> None:
        self._token = token
        self._open_paths = open_paths

    def concerns(self, _: Route) -> bool:
        """Every route, and what has none: of what is there, nothing is told."""
        return True

    def __call__(self, head: Head, _: Route) -> InsulaError | None:
        return None if head.path in self._open_paths else check_token(head, self._token)


class _FromThisMachine:
    def concerns(self, _: Route) -> bool:
        return True

    def __call__(self, head: Head, _: Route) -> InsulaError | None:
        return check_host(head) or check_origin(head)


#: The rule of a port of this machine without a token: Host and Origin are looked at on every path.
from_this_machine = _FromThisMachine()
