"""What these settings ask for and this version of the server does not do, or may not do: said at start, all at once.

Nothing that an operator wrote is ignored: a section whose feature is not built is refused by name. A sample secret, a
certificate that is not there, an admin port open to others without a token, and one database for both the server's truth
and the guests' SQL are refused with the line to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from insula.errors import ConfigurationError
from insula.loopback import is_loopback
from insula.settings.tree import Settings

#: Keys, or whole sections, whose feature is not in this version.
NOT_BUILT: dict[str, str] = {
    "server.apps_dir": "serving .rune apps",
    "server.max_clients": "JSON-RPC over WebSockets",
    "grpc": "native gRPC on a port of its own",
    "database": "SQL for guests",
    "cache": "the cache of guests",
    "filesystem": "files for guests",
    "modules": "serving HTTP modules",
    "secrets": "secrets for guests",
    "tls": "HTTPS",
    "cors": "calls from web pages of other origins",
    "auth": "sign-in",
    "rate_limit": "limiting requests by client",
    "fetch": "HTTP from guests",
    "mcp": "MCP",
    "hub": "the topic hub",
    "policy": "policies of access",
    "cluster": "running several nodes as one",
}

#: What stands behind `Bearer` in a header.
_SENDABLE = re.compile(r"[!-~]+")

#: Secrets as examples print them: everybody knows them.
SAMPLE_SECRETS = frozenset({"your-secret-key-here", "changeme", "change-me", "secret", "your-secret-here"})


def check_startable(settings: Settings) -> None:
    """Raises ConfigurationError with everything that keeps a server from starting on these settings."""
    problems = [*_wrong(settings), *_not_built(settings)]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigurationError("the server cannot start:\n" + "\n".join(f"  {each}" for each in problems))


def _wrong(settings: Settings) -> Iterator[ConfigurationError]:
    secret = settings.auth.jwt_secret
    if secret and (secret.reveal().lower() in SAMPLE_SECRETS or len(secret.reveal()) < 32):
        yield ConfigurationError(
            "`auth.jwt_secret` is a sample, or shorter than 32 characters",
            hint='in [auth], write jwt_secret_file = "/path/to/a/random/secret" in its place',
        )
    if settings.tls.enabled:
        for key, path in (("cert_path", settings.tls.cert_path), ("key_path", settings.tls.key_path)):
            if path is None or not path.is_file():
                yield ConfigurationError(
                    f"the file of `tls.{key}` is not there",
                    hint=f'in [tls], write {key} = "/path/to/{key.removesuffix("_path")}.pem", or enabled = false',
                )
                break
    server = settings.server
    if server.port == server.admin_port != 0 and server.host == server.admin_host:
        yield ConfigurationError(
            f"the public and the admin port are both {server.port}", hint="give them different numbers: --admin-port"
        )
    if not settings.admin_token and not is_loopback(settings.server.admin_host):
        yield ConfigurationError(
            "`server.admin_host` opens the admin port to others, and there is no token",
            hint="set INSULA_ADMIN__TOKEN, or leave admin_host at 127.0.0.1",
        )
    token = settings.admin_token
    if token and token.reveal().lower() in SAMPLE_SECRETS:
        yield ConfigurationError("`admin.token` is a sample", hint="set INSULA_ADMIN__TOKEN to a random text")
    if token and not _SENDABLE.fullmatch(token.reveal()):
        yield ConfigurationError(
            "`admin.token` has characters that no client can send as a token, so nobody could use the admin port",
            hint="set INSULA_ADMIN__TOKEN to a random text of ASCII letters and digits",
        )
    url = settings.database.url
    if url and _database(url.reveal()) == _database(settings.storage_url):
        yield ConfigurationError(
            "`database.url` is the database of [storage], which no guest may reach",
            hint="give [database] url a database of its own",
        )


def _not_built(settings: Settings) -> Iterator[ConfigurationError]:
    """A key that is off or at a value that asks for nothing is no request: `[tls] enabled = false`."""
    given: dict[str, str] = {}
    for key, origin in settings.origins.items():
        name = key if key in NOT_BUILT else key.partition(".")[0]
        if name in NOT_BUILT and not (name == "tls" and _tls_is_off(settings)):
            given.setdefault(name, origin)
    for name, origin in given.items():
        what = name if "." in name else f"[{name}]"
        hint = (
            "leave out --profile"
            if origin.startswith("profile ")
            else f"take it out of the {origin}"
            if origin in ("environment", "flags")
            else f"take it out of {origin}"
        )
        yield ConfigurationError(f"{what} is not in this version of Insula: {NOT_BUILT[name]}", hint=hint)


def _tls_is_off(settings: Settings) -> bool:
    """A certificate without a word about `enabled` is a wish for TLS, which must not be passed over."""
    named = any(key.startswith("tls.") for key in settings.origins)
    return not settings.tls.enabled and ("tls.enabled" in settings.origins or not named)


def _database(url: str) -> tuple[str, ...]:
    """What a URL points to, without the user and password: two URLs of one database are equal."""
    scheme, _, rest = url.partition(":")
    if scheme.lower().partition("+")[0] == "sqlite":
        path = unquote(rest.partition("?")[0])
        path = path.removeprefix("///") if path.startswith("///") else path
        return ("sqlite", str(Path(path).resolve()))
    parts = urlsplit(url)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    host = (query.get("host") or parts.hostname or "localhost").lower()
    try:
        port = parts.port or int(query.get("port") or 5432)
    except ValueError:
        port = 0
    if is_loopback(host) or host.startswith("/"):
        host = "localhost"
    return ("postgres", host, str(port), query.get("dbname") or unquote(parts.path.strip("/")) or parts.username or "")
