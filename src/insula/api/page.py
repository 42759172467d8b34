"""`GET /` of the admin port: what this server is and where to look, as a page for people or JSON for programs."""

from __future__ import annotations

from html import escape
from typing import Any

ROUTES = (
    ("GET", "/api/v1/health", "whether the server is up; never needs a token"),
    ("GET", "/api/v1/packages", "every deployed service"),
    ("POST", "/api/v1/packages/deploy", "deploy a package by its URL, or upload it"),
    ("GET", "/api/v1/packages/{service_id}", "one service in full"),
    ("DELETE", "/api/v1/packages/{service_id}", "undeploy it"),
    ("POST", "/api/v1/packages/{service_id}/rollback", "back to the package before"),
    ("GET", "/openapi.json", "all of this for programs"),
)

PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def as_json(version: str, public_url: str) -> dict[str, Any]:
    """What the page says, for programs."""
    return {
        "name": "insula",
        "version": version,
        "port": "admin",
        "public": public_url or None,
        "routes": [{"method": method, "path": path, "what": what} for method, path, what in ROUTES],
    }


def as_html(version: str, public_url: str) -> str:
    """The page; no script, nothing loaded from elsewhere."""
    rows = "".join(
        f"<tr><td>{escape(method)}</td><td><code>{escape(path)}</code></td><td>{escape(what)}</td></tr>"
        for method, path, what in ROUTES
    )
    public = f"<p>Services answer at <code>{escape(public_url)}</code>.</p>" if public_url else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Insula admin</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:46rem;padding:0 1rem}"
        "td{padding:.2rem .8rem .2rem 0}</style>"
        f"<h1>Insula {escape(version)}</h1><p>This is the admin port.</p>{public}<table>{rows}</table>"
        "<p>On the command line: <code>insula deploy NAME.okra.pkg</code>, <code>insula list</code>.</p></html>"
    )


def wants_html(accept: str) -> bool:
    """Whether a browser asks: it names text/html, which curl and programs do not."""
    return "text/html" in accept.lower()
