"""Which server a command talks to: `--admin-url`, `--url` and `--token`, else the environment, else the settings here.

A token that stands in a file of the working directory belongs to the server of that directory: it is sent nowhere else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from insula.cli.failures import UsageError


@dataclass(frozen=True, slots=True)
class Target:
    """What the flags said; None where they said nothing."""

    admin_url: str | None = None
    url: str | None = None
    token: str | None = None

    def over(self, below: Target) -> Target:
        """This, and `below` where this says nothing."""
        return Target(self.admin_url or below.admin_url, self.url or below.url, self.token or below.token)

    def admin(self) -> tuple[str, str | None]:
        """URL and token of the admin port."""
        explicit = self.admin_url or os.environ.get("INSULA_ADMIN_URL")
        if explicit:
            return checked(explicit, "--admin-url"), self.token or _environment_token()
        from insula.settings import load

        settings = load()
        token = self.token or (settings.admin_token.reveal() if settings.admin_token else None)
        return _local(settings.server.admin_host, settings.server.admin_port, "--admin-url"), token

    def public(self) -> str:
        """URL of the public port."""
        explicit = self.url or os.environ.get("INSULA_URL")
        if explicit:
            return checked(explicit, "--url")
        from insula.settings import load

        server = load().server
        return _local(server.host, server.port, "--url")


def _environment_token() -> str | None:
    token, file = os.environ.get("INSULA_ADMIN__TOKEN"), os.environ.get("INSULA_ADMIN__TOKEN_FILE")
    if not token and file:
        try:
            token = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            raise UsageError("the file of INSULA_ADMIN__TOKEN_FILE cannot be read") from None
    return token or None


def checked(url: str, option: str) -> str:
    """The URL of a server, without the slash at its end."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        port = 8081 if option == "--admin-url" else 8080
        raise UsageError(f"{option} is not the URL of a server", hint=f"{option} http://127.0.0.1:{port}")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{option} must not hold a name or password", hint="use --token")
    return url.rstrip("/")


def _local(host: str, port: int, option: str) -> str:
    if port == 0:
        raise UsageError("the settings let the server take any free port", hint=f"give {option} http://127.0.0.1:PORT")
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
