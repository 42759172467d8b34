"""An operation of a REST API: one method of one path, what runs it, and what its OpenAPI document says of it.

An operation that reads is a handler that answers whole. One that changes something runs to its end whether its client stays
or not, and takes the time that it takes: it is an ASGI application, which reads its body piece by piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote

import msgspec

from insula.api.errors import JSON, refuse
from insula.calls import MAX_NAME
from insula.edge.asgi import Receive, Scope, Send
from insula.edge.exchange import Answer, Answerer, Asgi, Head, Response, Route
from insula.edge.sharing import together
from insula.errors import CallerError, Code, InsulaError

#: Bytes of a body that is read whole, or not at all.
MAX_SMALL = 65_536

_FLAGS = {
    **dict.fromkeys(("true", "1", "yes", "on", "t", "y"), True),
    **dict.fromkeys(("false", "0", "no", "off", "f", "n"), False),
}


class Asked(NamedTuple):
    """A request to an operation: its head, the parts of its path by name, its flags, and its body as it comes."""

    head: Head
    parts: Mapping[str, str]
    flags: Mapping[str, bool]
    body: AsyncIterator[bytes]


Run: TypeAlias = Callable[[Asked], Response | Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`path` has its parts in braces. `answer` is the struct of its answer, `status` its status, `errors`
    the statuses of its refusals. `produces` are the content types of one without a struct; `unwell` is for an answer that
    comes with a 503 too. `flags` are boolean parameters of the query, with what each means. `body` are the shapes
    of its body by content type, for the document. `changes` runs it as an ASGI application. `takes` are the content types
    by which it is told from another one of the same method and path. One that is not `documented` is described by that
    other. `public`: it needs no token."""

    method: str
    path: str
    summary: str
    run: Run
    tag: str = "packages"
    description: str = ""
    answer: type[msgspec.Struct] | None = None
    produces: tuple[str, ...] = ()
    status: int = 200
    unwell: bool = False
    errors: tuple[int, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    changes: bool = False
    max_body: int = MAX_SMALL
    bound: str = ""
    takes: frozenset[bytes] = frozenset()
    documented: bool = True
    public: bool = False


def json_answer(value: Any, status: int = 200) -> Response:
    """`value` as JSON; never cached."""
    return Response(status, (JSON, (b"cache-control", b"no-store")), msgspec.json.encode(value))


def routes(operations: Sequence[Operation]) -> Iterator[tuple[bytes, Route]]:
    """Each path and its route. A slash at the end leads to the same."""
    by_path: dict[str, list[Route]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(_route(operation))
    for path, several in by_path.items():
        route = several[0] if len(several) == 1 else together(tuple(several))
        yield path.encode(), route
        if path != "/":
            yield path.encode() + b"/", route


def _route(operation: Operation) -> Route:
    return Route(
        Asgi(_Change(operation), refuse) if operation.changes else _Read(operation),
        operation.path,
        frozenset((operation.method,)),
        max_body=operation.max_body,
        bound=operation.bound,
        takes=operation.takes,
    )


class _Read:
    """An operation that answers whole."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def prepare(self, head: Head) -> Answerer:
        """Refuses wrong parameters."""
        parts, flags = _parameters(self._operation, head)

        def answer(head: Head, body: bytes) -> Answer:
            made = self._operation.run(Asked(head, parts, flags, _pieces(body)))
            return made if isinstance(made, Response) else asyncio.ensure_future(made)

        return answer

    def refuse(self, head: Head, error: InsulaError) -> Response:
        """The error in the shape of the admin port."""
        return refuse(head, error)


class _Change:
    """An operation that runs to its end."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Head = scope["insula.head"]
        parts, flags = _parameters(self._operation, head)
        made = self._operation.run(Asked(head, parts, flags, _stream(receive)))
        response = made if isinstance(made, Response) else await made
        length = [(b"content-length", b"%d" % len(response.body))] if response.status != 204 else []
        headers = [*response.headers, *length]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _stream(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerError("the client left before its request was whole", code=Code.CANCELED)
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _parameters(operation: Operation, head: Head) -> tuple[dict[str, str], dict[str, bool]]:
    """The parts of the path and the flags; CallerError for what is none."""
    parts = {}
    for name, value in zip(operation.path.split("/"), head.path.decode("latin-1").split("/"), strict=False):
        if name.startswith("{"):
            parts[name[1:-1]] = text = unquote(value)
            if len(text) > MAX_NAME:
                raise _wrong(f"path.{name[1:-1]}: String should have at most {MAX_NAME} characters")
    flags = {}
    for name, value in parse_qsl(head.query.decode("latin-1"), keep_blank_values=True):
        if name in operation.flags:
            flag = _FLAGS.get(value.lower())
            if flag is None:
                raise _wrong(f"query.{name}: Input should be a valid boolean, unable to interpret input")
            flags[name] = flag
    return parts, flags


def _wrong(message: str) -> CallerError:
    return CallerError(message, hint="/openapi.json describes every parameter")
