"""Who is to blame: what goes wrong in our own code while a request is read is a logged 500 and the end of the connection;
what a client sends that is no request stays its 400 and is not in the log as a failure of ours."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from insula.edge.asgi_request import AsgiRequest
from insula.edge.clocks import ReadClock
from insula.edge.fast_connection import FastConnection
from insula.edge.head_reader import HeadReader
from insula.edge.http1 import Reader
from insula.edge.http_connection import HttpConnection
from insula.edge.lane import Lane
from tests.edge.conftest import answers, statuses, street

GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
#: A POST that the lane leaves to the ordinary road.
SLOW_POST = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"

#: What breaks, on which road, and at which request.
PLACES: list[tuple[type, str, bool, bytes]] = [
    *((Reader, name, lane, SLOW_POST) for lane in (False, True) for name in (
        "on_message_begin", "on_url", "on_header", "on_headers_complete", "_head", "on_body", "on_message_complete",
        "feed", "_count",
    )),
    *((HttpConnection, name, lane, SLOW_POST) for lane in (False, True) for name in ("_heed", "_begin", "_body", "_end")),
    *((AsgiRequest, name, lane, SLOW_POST) for lane in (False, True) for name in ("begin", "body", "end")),
    (HeadReader, "on_url", True, POST),
    (HeadReader, "on_header", True, POST),
    (HeadReader, "on_headers_complete", True, POST),
    (HeadReader, "_plain", True, POST),
    (Lane, "meet", True, POST),
    (Lane, "answer", True, POST),
    (FastConnection, "_take", True, POST),
]  # fmt: skip


class BugError(Exception):
    """One of ours."""


@pytest.mark.parametrize(("owner", "name", "lane", "request_bytes"), PLACES)
async def test_a_failure_of_ours_is_a_logged_500(
    owner: type,
    name: str,
    lane: bool,
    request_bytes: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = [True]
    sound = getattr(owner, name)

    def fails(*args: Any, **kwargs: Any) -> Any:
        if broken:
            broken.clear()
            raise BugError("a bug of ours")
        return sound(*args, **kwargs)

    monkeypatch.setattr(owner, name, fails)
    async with street(lane=lane) as here:
        with caplog.at_level(logging.ERROR):
            said = await here.talk(request_bytes)
        assert not broken, "the place was not passed"
        [(status, headers, body)] = answers(said)
        assert status == 500
        assert headers[b"connection"] == b"close"
        assert b"bug" not in body
        assert here.drops == {"internal": 1}
        [record] = [record for record in caplog.records if record.exc_info and record.exc_info[0] is BugError]
        assert headers[b"x-request-id"].decode() in record.getMessage()
        # the next connection is served
        assert statuses(await here.talk(POST.replace(b"Host", b"Connection: close\r\nHost"))) == [200]


@pytest.mark.parametrize("lane", [False, True])
async def test_no_answer_is_given_to_what_nobody_asked(
    lane: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What fails behind a request that was read whole takes its answer from nobody and adds none."""

    def fails(_: ReadClock) -> None:
        raise BugError

    async with street(lane=lane) as here:
        monkeypatch.setattr(ReadClock, "watch", fails)
        said = await here.talk(SLOW_POST)
        assert statuses(said) == [200]
        assert "a request could not be read" in caplog.text


@pytest.mark.parametrize("lane", [False, True])
async def test_the_answers_before_it_are_given_first(
    lane: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with street(lane=lane) as here:
        sound = Reader.on_url

        def fails(self: Reader, url: bytes) -> None:
            if url == b"/bug":
                raise BugError
            sound(self, url)

        monkeypatch.setattr(Reader, "on_url", fails)
        said = await here.talk(GET + GET.replace(b"/echo", b"/bug") + GET)
        assert statuses(said) == [200, 500]
        assert "a request could not be read" in caplog.text


@pytest.mark.parametrize("lane", [False, True])
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a:99999999/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a:b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ?x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1",
        b"nonsense\r\n\r\n",
    ],
)
async def test_a_request_that_is_none_is_the_clients_fault(
    lane: bool, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with street(lane=lane) as here:
        with caplog.at_level(logging.WARNING):
            said = statuses(await here.talk(request_bytes))
        assert said in ([400], [404]), said
        assert not caplog.records
