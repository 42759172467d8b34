"""Who may use the admin port: a plain check of the head, before anything else is done.

With a token, it is asked for on every path but `/api/v1/health`. Without one, the port stands on loopback, where every
program of this machine may use it but no web page may: a page of another site comes with a foreign `Origin`, and one that
has bent its own name to 127.0.0.1 comes with a foreign `Host`.
"""

from __future__ import annotations

from collections.abc import Iterable

from insula.errors import CallerError, Code, InsulaError
from insula.settings import Secret
from insula.settings.startable import is_loopback

OPEN_PATHS = frozenset({"/api/v1/health"})
SAFE_METHODS = frozenset({"GET", "HEAD"})


def check(token: Secret | None, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> InsulaError | None:
    """The refusal of one request, or None. Header names are lower case."""
    if path in OPEN_PATHS:
        return None
    seen: dict[bytes, list[str]] = {}
    for name, value in headers:
        if name in (b"authorization", b"host", b"origin", b"sec-fetch-site"):
            seen.setdefault(name, []).append(value.decode("latin-1"))
    return _by_token(token, seen) if token else _by_origin(method, seen)


def _by_token(token: Secret, seen: dict[bytes, list[str]]) -> InsulaError | None:
    given = seen.get(b"authorization", [])
    scheme, _, value = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() == "bearer" and token.matches(value.strip()):
        return None
    return CallerError(
        "the admin port needs its token" if not given else "the token is not the one of this admin port",
        code=Code.UNAUTHENTICATED,
        hint="send Authorization: Bearer …, or give the command line --token or INSULA_ADMIN__TOKEN",
    )


def _by_origin(method: str, seen: dict[bytes, list[str]]) -> InsulaError | None:
    hosts = seen.get(b"host", [])
    if len(hosts) != 1 or not is_loopback(_hostname(hosts[0])):
        return CallerError(
            "without a token the admin port answers to localhost alone",
            code=Code.PERMISSION_DENIED,
            hint="call it as http://127.0.0.1 or http://localhost, or start the server with INSULA_ADMIN__TOKEN set",
        )
    origins = seen.get(b"origin", [])
    foreign = any(origin.lower() != f"http://{hosts[0]}".lower() for origin in origins)
    site = seen.get(b"sec-fetch-site", [])
    if method not in SAFE_METHODS and any(value not in ("same-origin", "none") for value in site):
        foreign = True
    if foreign:
        return CallerError(
            "a web page of another origin may not use the admin port",
            code=Code.PERMISSION_DENIED,
            hint="start the server with INSULA_ADMIN__TOKEN set and send the token",
        )
    return None


def _hostname(host: str) -> str:
    """The name of a Host header without its port; nothing where it is not one."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        return name if bracket and (not port or (port[0] == ":" and port[1:].isdecimal())) else ""
    name, colon, port = host.partition(":")
    return name if not colon or port.isdecimal() else ""
