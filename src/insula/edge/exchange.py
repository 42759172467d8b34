"""One HTTP request and its answer as every gateway sees them: the head, the whole body, the response.

The edge reads the head, finds the `Route`, and lets the rules of admission refuse. A route leads to a `Handler`, which
answers whole: the edge reads and inflates the body within the route's bound and asks it for the answer; it never sees a
socket, nor by which of the edge's two roads the request came. Or it leads to an ASGI application (`Asgi`): what streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import msgspec

from insula.calls import Principal
from insula.edge.asgi import App
from insula.errors import CallerError, Code, InsulaError
from insula.plans import Policy

if TYPE_CHECKING:
    from insula.edge.sharing import Shared

T = TypeVar("T")


class Head(msgspec.Struct, gc=False):
    """The head of one request. Header names are lower case; pairs stay in order, and a name may come twice.

    `method`, `path` (as it came, percent signs and all, without the query), `query`, `headers` and `http_version` follow
    from its bytes alone and may be shared by requests with the same bytes: nobody changes them. The rest is this request's:
    who sent it, by which scheme, its id, when it came (seconds of time.monotonic()), who calls, once a rule has proved it,
    and the `fields` that rules add to its answer, whatever the answer is.
    """

    method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    peer: str = ""
    scheme: str = "http"
    http_version: str = "1.1"
    request_id: str = ""
    received: float = 0.0
    principal: Principal | None = None
    fields: tuple[tuple[bytes, bytes], ...] = ()

    def get(self, name: bytes) -> bytes | None:
        """The first header of this (lower-case) name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class HttpError(CallerError):
    """A refusal that HTTP itself defines (404, 405, 415), whatever protocol the route speaks: every protocol answers it
    with this status. `fields` are the headers that the status asks for (Allow, Accept-Post)."""

    default_code = Code.UNIMPLEMENTED

    def __init__(
        self,
        message: str,
        status: int,
        *,
        code: Code | None = None,
        hint: str | None = None,
        fields: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message, code=code, status=status, hint=hint)
        self.fields = fields


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole answer. The edge adds content-length, date, the request id and compression; never the handler."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


class Later:
    """An answer that is not there yet: once `waited` is done, `finish` makes of its result the answer, or what else is to
    be waited for. The edge calls it in a turn of the loop that has time for it. `finish` raises as an answerer does."""

    __slots__ = ("finish", "waited")

    def __init__(self, waited: asyncio.Future[T], finish: Callable[[T], Answer]) -> None:
        self.waited: asyncio.Future[Any] = waited
        self.finish: Callable[[Any], Answer] = finish


#: An answer now, or later. Cancelling the future tells the handler that the client is gone.
Answer: TypeAlias = "Response | Later | asyncio.Future[Response]"


#: What answers requests with one sort of head: the head of the request at hand and its whole, inflated body in, the answer
#: out. Raises InsulaError, which comes back through `Handler.refuse`.
Answerer: TypeAlias = Callable[[Head, bytes], Answer]


class Handler(Protocol):
    """A gateway's side of one route. Both are plain functions, called on the event loop, and quick; so is an answerer."""

    def prepare(self, head: Head) -> Answerer:
        """What answers requests whose heads have the same bytes as this one, with all that follows from those for this
        protocol. Raises InsulaError where the protocol refuses by them (method, content type). Called before any body is
        read, and once for many requests, so what belongs to one request (its id, its peer, who calls) is not read here."""

    def refuse(self, head: Head, error: InsulaError) -> Response:
        """An error in the shape of this protocol."""


class Asgi:
    """An ASGI application that a route leads to. The edge admits its requests, bounds their bodies as they come, marks its
    answers and counts them; it reads nothing ahead and waits as long as the application does. `refuse` gives an error its
    shape, as a handler's does. The scope has the `Head` as `insula.head`."""

    __slots__ = ("app", "refuse")

    def __init__(self, app: App, refuse: Callable[[Head, InsulaError], Response]) -> None:
        self.app = app
        self.refuse = refuse


@dataclass(frozen=True, slots=True)
class Route:
    """Where a path leads: `methods` for Allow and 405, `policy` for the rule of identity, `max_body` in bytes after
    inflation, and the setting that sets it, as `bound` ("" where none does); `inflate` whether the edge inflates
    content-encoding before a handler sees the body, `timeout` in seconds how long admission may wait, and then how long a
    handler's answer may take once the body is there. `takes` are the content types of its protocol: routes that name
    theirs may share a path (`sharing.py`). `label` names the route in metrics and in the log; it is bounded
    in number (a method's path, never the path a client wrote). `tenant` is who pays for what its requests take of what all
    share: a service's id, or "" for the server itself. `upgrades` are the protocols, lower case, that a connection may
    become here (`Upgrade: websocket`)."""

    handler: Handler | Asgi | Shared
    label: str
    methods: frozenset[str] = frozenset({"GET"})
    policy: Policy = field(default_factory=Policy)
    max_body: int = 0
    inflate: bool = True
    timeout: float = 60.0
    tenant: str = ""
    bound: str = "limits.body_bytes"
    takes: frozenset[bytes] = frozenset()
    upgrades: frozenset[bytes] = frozenset()
