"""`GET /` of the admin port: what this server is and where to look, as a page for people or JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from insula.deployments.contract import Listed
from insula.edge.page import LISTED, more, page, table

ROUTES = (
    ("GET", "/api/v1/health", "whether the server is up; never needs a token"),
    ("GET", "/api/v1/packages", "every deployed service"),
    ("POST", "/api/v1/packages/deploy", "deploy a package by its URL, or upload it"),
    ("GET", "/api/v1/packages/{service_id}", "one service in full"),
    ("DELETE", "/api/v1/packages/{service_id}", "undeploy it"),
    ("POST", "/api/v1/packages/{service_id}/rollback", "back to the package before"),
    ("POST", "/api/v1/packages/{service_id}/retry", "start it, where it is stopped"),
    ("GET", "/metrics", "what it has counted, for Prometheus"),
    ("GET", "/openapi.json", "all of this for programs"),
)


def as_json(version: str, public_url: str) -> dict[str, Any]:
    """What the page says, for programs."""
    return {
        "name": "insula",
        "version": version,
        "port": "admin",
        "public": public_url or None,
        "routes": [{"method": method, "path": path, "what": what} for method, path, what in ROUTES],
    }


def as_html(version: str, public_url: str, services: Sequence[Listed]) -> bytes:
    """The page, every text escaped."""
    url = escape(public_url, quote=True)
    public = f' Services answer at <a href="{url}">{url}</a>.' if url else ""
    listed = [(f"<code>{escape(one.id)}</code>", _state(one), escape(one.version)) for one in services[:LISTED]]
    return page(
        "Insula admin",
        f"<h1>Insula {escape(version)}</h1><p>This is the admin port.{public}</p>"
        f"<h2>Services</h2>{table(listed) if listed else '<p>None yet.</p>'}"
        f"{more(len(services) - len(listed), 'insula list')}"
        "<h2>On the command line</h2><pre>insula deploy NAME.okra.pkg\ninsula list\ninsula --help</pre>"
        f"<h2>For programs</h2>{table([_row(*route) for route in ROUTES])}",
    )


def _state(one: Listed) -> str:
    """The state, and why it is no better."""
    why = f": {one.last_error}" if one.last_error and one.state in ("stopped", "degraded") else ""
    return escape(one.state + why)


def _row(method: str, path: str, what: str) -> tuple[str, str, str]:
    plain = method == "GET" and "{" not in path
    shown = f'<a href="{escape(path)}">{escape(path)}</a>' if plain else f"<code>{escape(path)}</code>"
    return escape(method), shown, escape(what)


def wants_html(accept: str) -> bool:
    """Whether a browser asks: it names text/html, which curl and programs do not."""
    return "text/html" in accept.lower()
