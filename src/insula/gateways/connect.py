"""Connect's unary protocol: a POST or GET in, one Call, one Reply, an answer out (connectrpc.com/docs/protocol).

JSON and protobuf binary are read and written by the plan's codecs, at once where they are small, else later. A call's
deadline counts from when its head came: what the client took to send the body is gone. Streams are not spoken here; they
and every unknown content type are refused with the types that are.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from insula.calls import Call, Headers, Reply
from insula.edge.exchange import Answer, Answerer, Head, HttpError, Later, Response, Route
from insula.errors import CallerError, DeadlineError, GuestError, InsulaError
from insula.gateways.connect_errors import JSON, error_response
from insula.gateways.connect_get import read_query
from insula.gateways.contract import Group, Offer
from insula.gateways.heads import call_head, first_of_each, milliseconds, timeout_ms
from insula.gateways.metadata import from_guest
from insula.offload import Offload
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
_TAKES = frozenset((b"application/json", b"application/proto"))
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


class ConnectGateway:
    """Makes the routes of each method from its plan. `offload` has threads for messages that are slow to inflate."""

    def __init__(self, offload: Offload) -> None:
        self._offload = offload

    def routes(self, offers: Sequence[Offer]) -> Iterator[Group]:
        """The methods of each service by themselves."""
        return (Group(offer, partial(self._of, offer)) for offer in offers)

    def _of(self, offer: Offer) -> Iterator[tuple[bytes, Route]]:
        """Paths and their routes: with the version always, without it for the latest, and both below `/connect`."""
        for plan in offer.plans:
            label = f"/{plan.service}/{plan.method}"
            route = Route(
                Unary(plan, self._offload),
                label,
                methods=_METHODS[plan.read_only],
                policy=plan.policy,
                max_body=plan.max_body,
                timeout=plan.timeout,
                tenant=str(plan.service),
                takes=_TAKES,
            )
            paths = [label]
            if offer.latest:
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


class Unary:
    """The handler of one method."""

    def __init__(self, plan: Plan, offload: Offload) -> None:
        self._plan = plan
        self._offload = offload

    def prepare(self, head: Head) -> Answerer:
        """Refuses a content type that is not Connect's, a version of the protocol that is not 1, and a head that says what
        it may not of the call; reads the rest."""
        sent = first_of_each(head.headers)
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
        timeout = timeout_ms(sent.get(b"connect-timeout-ms"), self._plan.timeout, "Connect-Timeout-Ms")
        asked = Asked(timeout, *call_head(head.headers, sent))
        return self._of_get(asked) if is_get else self._of_post(asked, proto, _HEADERS[False, proto])

    def _of_get(self, asked: Asked) -> Answerer:
        """A GET has its body, and what that is, in its query."""

        def answer(head: Head, _: bytes) -> Answer:
            query = read_query(head.query)
            most = self._plan.max_body

            def ask(message: bytes) -> Answer:
                return self._of_post(asked, query.proto, _HEADERS[True, query.proto])(head, message)

            if query.slow:
                return Later(self._offload.run(str(self._plan.service), query.inflated, most), ask)
            return ask(query.inflated(most))

        return answer

    def _of_post(self, asked: Asked, proto: bool, headers: tuple[tuple[bytes, bytes], ...]) -> Answerer:
        """Makes the call. What it needs is in a closure, since this runs at every request."""
        plan = self._plan
        codec = plan.binary() if proto else plan.json()
        read, write = codec.read_input, codec.write_output
        service, method, submit = plan.service, plan.method, plan.entrance()
        timeout, metadata, traceparent, key = asked
        if timeout <= 0:
            return _too_late

        def answer(head: Head, body: bytes, payload: bytes | None = None) -> Answer:
            deadline = head.received + timeout
            if payload is None:
                made = read(body, deadline)
                if not isinstance(made, bytes):
                    return Later(made, lambda payload: answer(head, b"", payload))
                payload = made
            reply = submit(
                Call(
                    service,
                    method,
                    payload,
                    deadline,
                    metadata,
                    head.principal,
                    head.request_id,
                    traceparent,
                    key,
                )
            )
            if not isinstance(reply, Reply):
                return Later(reply, lambda reply: respond(reply, deadline))
            if reply.headers or reply.trailers:
                return respond(reply, deadline)
            out = write(reply.payload, deadline)
            return Response(200, headers, out) if isinstance(out, bytes) else Later(out, plain)

        def plain(out: bytes) -> Response:
            return Response(200, headers, out)

        def respond(reply: Reply, deadline: float) -> Answer:
            if not reply.headers and not reply.trailers:
                said = headers
            else:
                said = headers + from_guest(service, reply.headers, reply.trailers)
            out = write(reply.payload, deadline)
            return Response(200, said, out) if isinstance(out, bytes) else Later(out, partial(Response, 200, said))

        return answer

    def refuse(self, head: Head, error: InsulaError) -> Response:
        """The error, with what to do about it for this service and the metadata that the guest had set before it."""
        self._complete(head, error)
        metadata: tuple[tuple[bytes, bytes], ...] = ()
        if error.headers or error.trailers:
            try:
                metadata = from_guest(self._plan.service, error.headers, error.trailers)
            except GuestError as bad:
                error = bad
        if head.method == "GET":
            metadata = (_NO_SNIFFING, *metadata)
        return error_response(error, metadata)

    def _complete(self, head: Head, error: InsulaError) -> None:
        """Adds the line to write where a limit of this service decided, and says whose the deadline was."""
        plan = self._plan
        if isinstance(error, DeadlineError):
            error.reason = error.reason or "deadline"
            sent = head.get(b"connect-timeout-ms")
            allowed = milliseconds(sent) if sent is not None else None
            if allowed is not None and allowed < plan.timeout * 1000:
                error.hint = (
                    f"the client allowed {allowed} ms by Connect-Timeout-Ms; a call of this service may take "
                    f"{plan.timeout * 1000:g} ms"
                )
                return
        error.hint = plan.hints.get(error.reason or "", error.hint)


def _too_late(head: Head, body: bytes) -> Answer:  # noqa: ARG001
    raise DeadlineError("the time for this call was over before it began")
