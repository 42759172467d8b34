"""Connect's unary protocol: a POST or GET in, one Call, one Reply, an answer out (connectrpc.com/docs/protocol).

JSON is read by the plan's codec, protobuf binary by the codec that the plan makes at its first binary call. A call's
deadline counts from when its head came: what the client took to send the body is gone. Streams are not spoken here; they
and every unknown content type are refused with the types that are.
"""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from insula.calls import Call, Headers, Pending, Reply
from insula.edge.exchange import Answer, Answerer, Head, HttpError, Response, Route
from insula.errors import CallerError, Code, DeadlineError, GuestError, InsulaError
from insula.gateways.connect_errors import JSON, error_response
from insula.gateways.connect_get import read_query
from insula.gateways.metadata import from_guest, to_guest
from insula.plans import Plan

PROTO = (b"content-type", b"application/proto")
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
#: What an answer says of itself, by whether it is one to a GET, and whether it is binary.
_HEADERS: dict[tuple[bool, bool], tuple[tuple[bytes, bytes], ...]] = {
    (False, False): (JSON,),
    (False, True): (PROTO,),
    (True, False): (JSON, _NO_SNIFFING),
    (True, True): (PROTO, _NO_SNIFFING),
}
#: By whether a method is read only.
_METHODS = {True: frozenset(("GET", "POST")), False: frozenset(("POST",))}
_ACCEPT_POST = (b"accept-post", b"application/json, application/proto")
_TIMEOUT = re.compile(rb"[0-9]{1,10}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_UTF8 = (b"utf-8", b"utf8", b"us-ascii")


class Kind(enum.Enum):
    """What a content type says of a body."""

    JSON = enum.auto()
    PROTO = enum.auto()
    STREAM = enum.auto()
    OTHER = enum.auto()


@lru_cache(maxsize=256)
def kind_of(content_type: bytes) -> Kind:
    """The kind of a content type, whatever its case and parameters; a charset other than UTF-8 is not JSON."""
    name, *parameters = content_type.lower().split(b";")
    name = name.strip()
    if name == b"application/proto":
        return Kind.PROTO
    if name == b"application/json":
        for parameter in parameters:
            key, _, value = parameter.partition(b"=")
            if key.strip() == b"charset" and value.strip().strip(b'"') not in _UTF8:
                return Kind.OTHER
        return Kind.JSON
    return Kind.STREAM if name.startswith((b"application/connect+", b"application/grpc")) else Kind.OTHER


def timeout_of(header: bytes | None, longest: float) -> float:
    """Seconds that a call may take: what Connect-Timeout-Ms asks for, and never more than `longest`."""
    if header is None:
        return longest
    if not _TIMEOUT.fullmatch(header):
        raise CallerError("Connect-Timeout-Ms is not a number of at most ten digits")
    return min(longest, int(header) / 1000)


class ConnectGateway:
    """Makes the routes of a method from its plan."""

    def routes(self, plan: Plan, latest: bool) -> Iterator[tuple[bytes, Route]]:
        """Paths and their route: with the version always, without it for the latest, and both below `/connect`."""
        label = f"/{plan.service}/{plan.method}"
        route = Route(
            Unary(plan),
            label,
            methods=_METHODS[plan.read_only],
            policy=plan.policy,
            max_body=plan.max_body,
            timeout=plan.timeout,
            tenant=str(plan.service),
        )
        paths = [label]
        if latest:
            paths.append(f"/{plan.service.unversioned}/{plan.method}")
        for path in paths:
            yield path.encode(), route
            yield b"/connect" + path.encode(), route


class Asked(NamedTuple):
    """What a head asks for the call that it begins. `timeout` in seconds."""

    timeout: float
    metadata: Headers
    traceparent: str
    idempotency_key: str


class _Binary:
    """The protobuf codec of a plan, which is made at the first body: the store of them may have no room for it."""

    __slots__ = ("_plan",)

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def read_input(self, body: bytes) -> bytes:
        return self._plan.binary().read_input(body)

    def write_output(self, payload: bytes) -> bytes:
        return self._plan.binary().write_output(payload)


class Unary:
    """The handler of one method."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def prepare(self, head: Head) -> Answerer:
        """Refuses a content type that is not Connect's, a version of the protocol that is not 1, and a head that says what
        it may not of the call; reads the rest."""
        sent = dict(reversed(head.headers))  # the first of each name
        is_get = head.method == "GET"
        proto = False
        if not is_get:
            kind = kind_of(sent.get(b"content-type", b""))
            if kind is Kind.STREAM:
                raise HttpError("this method is unary and is not called as a stream", 415, fields=(_ACCEPT_POST,))
            if kind is Kind.OTHER:
                raise HttpError(
                    "the body's content type is neither JSON nor protobuf",
                    415,
                    hint='send -H "Content-Type: application/json"',
                    fields=(_ACCEPT_POST,),
                )
            proto = kind is Kind.PROTO
        if sent.get(b"connect-protocol-version", b"1") != b"1":
            raise CallerError("Connect-Protocol-Version is not 1")
        key = sent.get(b"idempotency-key", b"")
        if key and not _IDEMPOTENCY_KEY.fullmatch(key):
            raise CallerError("Idempotency-Key is longer than 255 characters, or has some that a key may not have")
        trace = sent.get(b"traceparent")
        asked = Asked(
            timeout_of(sent.get(b"connect-timeout-ms"), self._plan.timeout),
            to_guest(head.headers),
            trace.decode() if trace and _TRACEPARENT.fullmatch(trace) else "",
            key.decode(),
        )
        return self._of_get(asked) if is_get else self._of_post(asked, proto, _HEADERS[False, proto])

    def _of_get(self, asked: Asked) -> Answerer:
        """A GET has its body, and what that is, in its query."""

        def answer(head: Head, _: bytes) -> Answer:
            proto, body = read_query(head.query, self._plan.max_body)
            return self._of_post(asked, proto, _HEADERS[True, proto])(head, body)

        return answer

    def _of_post(self, asked: Asked, proto: bool, headers: tuple[tuple[bytes, bytes], ...]) -> Answerer:
        """Makes the call, once. All that is known of it is at hand, since this runs at every request."""
        plan = self._plan
        codec = _Binary(plan) if proto else plan.json()
        read, write = codec.read_input, codec.write_output
        service, method, submit = plan.service, plan.method, plan.entrance()
        timeout, metadata, traceparent, key = asked
        if timeout <= 0:
            return _too_late

        def answer(head: Head, body: bytes) -> Answer:
            reply = submit(
                Call(
                    service,
                    method,
                    read(body),
                    head.received + timeout,
                    metadata,
                    head.principal,
                    head.request_id,
                    traceparent,
                    key,
                )
            )
            if isinstance(reply, Reply):
                if reply.headers or reply.trailers:
                    return respond(reply)
                return Response(200, headers, write(reply.payload))
            return _later(reply, respond)

        def respond(reply: Reply) -> Response:
            if reply.headers or reply.trailers:
                return Response(200, headers + from_guest(service, reply.headers, reply.trailers), write(reply.payload))
            return Response(200, headers, write(reply.payload))

        return answer

    def refuse(self, head: Head, error: InsulaError) -> Response:
        """The error, with the metadata that the guest had set before it."""
        metadata: tuple[tuple[bytes, bytes], ...] = ()
        if error.headers or error.trailers:
            try:
                metadata = from_guest(self._plan.service, error.headers, error.trailers)
            except GuestError as bad:
                error = bad
        if head.method == "GET":
            metadata = (_NO_SNIFFING, *metadata)
        return error_response(error, metadata)


def _too_late(head: Head, body: bytes) -> Answer:  # noqa: ARG001
    raise DeadlineError("the time for this call was over before it began")


def _later(pending: Pending, finish: Callable[[Reply], Response]) -> asyncio.Future[Response]:
    """The response when the reply is there. Cancelling it cancels the call."""
    answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def done(pending: Pending) -> None:
        if answer.done():
            if not pending.cancelled():
                pending.exception()  # nobody waits for it any more
            return
        try:
            if pending.cancelled():
                raise InsulaError("the call was cancelled", code=Code.CANCELED)
            answer.set_result(finish(pending.result()))
        except Exception as error:
            answer.set_exception(error)

    def gone(answer: asyncio.Future[Response]) -> None:
        if answer.cancelled():
            pending.cancel()

    pending.add_done_callback(done)
    answer.add_done_callback(gone)
    return answer
