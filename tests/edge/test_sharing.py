"""Two small protocols at one path, told apart by method and content type, over both roads."""

from __future__ import annotations

import pytest

from insula.edge.exchange import Answer, Answerer, Asgi, Head, HttpError, Response, Route
from insula.edge.limits import ConnectionLimits
from insula.edge.rest import refusal
from insula.edge.routes import RouteTable
from insula.edge.sharing import Shared, media_type
from insula.errors import CallerError, InsulaError
from tests.edge.conftest import answers
from tests.edge.roads import roads

LIMITS = ConnectionLimits(keep_alive_timeout=5.0, linger=0.3)


class Speaks:
    """A protocol that answers its name, and refuses in its name what it does not speak."""

    def __init__(self, name: bytes, kind: bytes) -> None:
        self.name = name
        self.kind = kind

    def prepare(self, head: Head) -> Answerer:
        if head.method == "POST" and media_type(head.get(b"content-type")) != self.kind:
            raise HttpError("not mine", 415)
        return self.answer

    def answer(self, _: Head, body: bytes) -> Answer:
        return Response(200, ((b"content-type", self.kind),), self.name + b" " + body)

    def refuse(self, head: Head, error: InsulaError) -> Response:
        return Response(error.http_status, ((b"content-type", self.kind),), self.name + b": " + error.message.encode())


def speaks(name: bytes, kind: bytes, *methods: str, max_body: int = 100) -> Route:
    return Route(Speaks(name, kind), "/a.B/c", frozenset(methods), max_body=max_body, takes=frozenset((kind,)))


ONE = speaks(b"one", b"application/one", "POST", "GET")
TWO = speaks(b"two", b"application/two", "POST", max_body=4)


def ask(method: bytes = b"POST", kind: bytes = b"", body: bytes = b"") -> bytes:
    fields = b"Content-Type: %b\r\n" % kind if kind else b""
    return b"%b /a.B/c HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (method, fields, len(body), body)


async def test_each_gets_its_own() -> None:
    async with roads(LIMITS) as here:
        for road in here.both:
            road.app.table = RouteTable([(b"/a.B/c", ONE)]).changed((), [(b"/a.B/c", TWO)])
        said = await here.same(
            ask(kind=b"application/one", body=b"1"),
            ask(kind=b"Application/TWO; charset=x", body=b"2"),
            ask(kind=b"application/two", body=b"22222"),
            ask(kind=b"application/three"),
            ask(),
            ask(b"GET"),
            ask(b"PUT"),
            ask(b"OPTIONS").replace(b"Host", b"Connection: close\r\nHost"),
        )
        assert [(status, body) for status, _, body in answers(said)][:4] == [
            (200, b"one 1"),
            (200, b"two 2"),
            (413, b"two: the body is larger than limits.body_bytes allows, 4 bytes"),
            (415, b"one: not mine"),
        ]
        assert b"one: this path does not answer PUT" in said
        assert said.count(b"allow: GET, HEAD, OPTIONS, POST\r\n") == 1
        lane = here.lane.lane
        assert lane is not None
        assert {known.route for known in lane.memo.young.values()} == {ONE, TWO}
        assert here.lane.app.metrics.routes.keys() == {"/a.B/c"}


def test_a_table_puts_them_together_and_takes_them_apart() -> None:
    table = RouteTable([(b"/x", ONE)])
    both = table.changed((), [(b"/x", TWO)])
    handler = both.exact[b"/x"].handler
    assert isinstance(handler, Shared)
    assert handler.routes == (ONE, TWO)
    assert both.labels == {"/a.B/c": 2}
    assert table.exact[b"/x"] is ONE
    assert both.changed([(b"/x", ONE)], ()).exact == {b"/x": TWO}
    assert both.changed([(b"/x", ONE), (b"/x", TWO)], ()).exact == {}
    assert both.changed([(b"/x", TWO)], ()).labels == {"/a.B/c": 1}


@pytest.mark.parametrize(
    "other",
    [Route(Speaks(b"any", b""), "/any"), speaks(b"same", b"application/one", "POST")],
    ids=["takes anything", "takes the same"],
)
def test_what_cannot_be_told_apart_clashes(other: Route) -> None:
    with pytest.raises(CallerError, match="is taken"):
        RouteTable([(b"/x", ONE), (b"/x", other)])
    with pytest.raises(CallerError, match="is taken"):
        RouteTable([(b"/x", other), (b"/x", ONE)])


async def test_one_of_them_may_stream() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        raise CallerError("asked")

    streams = Route(
        Asgi(app, refusal), "/s", frozenset(("POST",)), max_body=9, takes=frozenset((b"text/event-stream",))
    )
    async with roads(LIMITS) as here:
        for road in here.both:
            road.app.table = RouteTable([(b"/a.B/c", ONE), (b"/a.B/c", streams)])
        said = await here.same(
            ask(kind=b"text/event-stream", body=b"1"),
            ask(kind=b"application/one").replace(b"Host", b"Connection: close\r\nHost"),
        )
        assert [status for status, _, _ in answers(said)] == [400, 200]
