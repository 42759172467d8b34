"""The plain routes of a server: what it is, whether it is well, what it has counted.

Their contents come from callables, asked at each request, so that this file knows nothing of what it tells about. All are
GET, have no body, and answer while the server drains as well, since that is when somebody looks.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from insula.edge.exchange import Answer, Answerer, Head, Response, Route
from insula.edge.metrics import Metrics
from insula.edge.page import PAGE_HEADERS, more, page, table
from insula.edge.rest import json_response, refusal
from insula.errors import InsulaError
from insula.times import rfc3339


@dataclass(frozen=True, slots=True)
class Welcome:
    """What `GET /` tells: name, version, one line, where to look (a path or URL, and what is there), and the paths of
    services; `more` is the number of paths that are left out. Pages are made once for each Welcome."""

    name: str
    version: str
    about: str
    links: Mapping[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """What `GET /status` tells. `uptime` in seconds."""

    version: str
    uptime: float
    connections: int
    max_connections: int
    active_sessions: int = 0
    mode: str = "server"


class Plain:
    """A GET route whose answer is made by a function of the head."""

    def __init__(self, make: Callable[[Head], Answer]) -> None:
        self._make = make

    def prepare(self, head: Head) -> Answerer:  # noqa: ARG002 - one for all
        """Lets everything in; the route takes no body."""
        return lambda head, body: self._make(head)

    def refuse(self, head: Head, error: InsulaError) -> Response:
        """The error in the REST shape."""
        return refusal(head, error)


def wants_page(head: Head) -> bool:
    """Whether the client would rather have a page than JSON: a browser names text/html, a program does not."""
    return any(b"text/html" in value.lower() for name, value in head.headers if name == b"accept")


def welcome_page(welcome: Welcome) -> bytes:
    """The welcome as a page, every text escaped."""
    name, about = html.escape(welcome.name), html.escape(welcome.about)
    links = table([(_link(where), html.escape(what)) for where, what in welcome.links.items()])
    services = "".join(f"<li><code>{html.escape(service)}</code></li>" for service in welcome.services)
    listed = f"<ul>{services}</ul>{more(welcome.more, 'insula list')}" if services else "<p>None yet.</p>"
    return page(name, f"<h1>{name} {html.escape(welcome.version)}</h1><p>{about}</p>{links}<h2>Services</h2>{listed}")


def _link(where: str) -> str:
    text = html.escape(where, quote=True)
    return f'<a href="{text}">{text}</a>' if where.startswith(("/", "http://", "https://")) else f"<code>{text}</code>"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the plain routes have their contents from. `ready` is "" once the server takes calls, else a word for what it
    does instead (`starting`, `draining`); `parts` adds what else is to be known of its health."""

    welcome: Callable[[], Welcome]
    ready: Callable[[], str]
    status: Callable[[], Status]
    metrics: Metrics
    parts: Callable[[], Mapping[str, Any]] = dict


class _Pages:
    """The answers that tell a welcome, each made when it is first asked for and kept while the welcome is the same."""

    def __init__(self) -> None:
        self._told: Welcome | None = None
        self._made: dict[bool, Response] = {}

    def of(self, welcome: Welcome, *, as_page: bool) -> Response:
        if welcome is not self._told:
            self._told, self._made = welcome, {}
        answer = self._made.get(as_page)
        if answer is None:
            answer = self._made[as_page] = self._page(welcome) if as_page else self._json(welcome)
        return answer

    @staticmethod
    def _page(welcome: Welcome) -> Response:
        return Response(200, PAGE_HEADERS, welcome_page(welcome))

    @staticmethod
    def _json(welcome: Welcome) -> Response:
        told: dict[str, Any] = {
            "name": welcome.name,
            "version": welcome.version,
            "about": welcome.about,
            "links": welcome.links,
            "services": welcome.services,
        }
        if welcome.more:
            told["more"] = welcome.more
        answer = json_response(told)
        return Response(200, (*answer.headers, (b"vary", b"accept")), answer.body)


def plain_routes(sources: Sources) -> Iterator[tuple[bytes, Route]]:
    """`/`, `/health`, `/api/v1/health`, `/health/ready`, `/status` and `/metrics`."""

    pages = _Pages()

    def welcome(head: Head) -> Response:
        return pages.of(sources.welcome(), as_page=wants_page(head))

    def health(_: Head) -> Response:
        return json_response({"status": "healthy", "timestamp": rfc3339(), **sources.parts()})

    def api_health(_: Head) -> Response:
        state = sources.ready()
        return json_response({"status": state or "healthy", "time": rfc3339()}, 503 if state else 200)

    def ready(_: Head) -> Response:
        state = sources.ready()
        return json_response({"status": state or "ready", "timestamp": rfc3339()}, 503 if state else 200)

    def status(_: Head) -> Response:
        told = sources.status()
        return json_response(
            {
                "version": told.version,
                "uptime": int(told.uptime),
                "connections": told.connections,
                "max_connections": told.max_connections,
                "active_sessions": told.active_sessions,
                "mode": told.mode,
            }
        )

    def metrics(_: Head) -> Answer:
        page: asyncio.Future[Response] = asyncio.ensure_future(_metrics_page(sources.metrics))
        return page

    for path, make in (
        ("/", welcome),
        ("/health", health),
        ("/api/v1/health", api_health),
        ("/health/ready", ready),
        ("/status", status),
    ):
        yield path.encode(), Route(Plain(make), path)
    yield b"/metrics", Route(Plain(metrics), "/metrics")


#: The labels of the plain routes, for the rule that lets them answer while the server drains.
PLAIN_LABELS = frozenset(("/", "/health", "/api/v1/health", "/health/ready", "/status", "/metrics"))


async def _metrics_page(metrics: Metrics) -> Response:
    return Response(200, ((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),), await metrics.exposition())
