"""What is a plain head, and that one reader is as good for the next head, whatever came before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.edge.head_reader import HeadReader, PlainHead
from insula.edge.limits import ConnectionLimits
from tests.edge.roads import post

LIMITS = ConnectionLimits(max_head=4096, max_target=100, max_fields=10)


def read(reader: HeadReader, message: bytes) -> PlainHead | None:
    return reader.read(message, 0, message.find(b"\r\n\r\n") + 4, LIMITS)


def test_a_plain_head() -> None:
    assert read(HeadReader(), post(fields=b"X-Request-Id: a\r\nX-Request-Id: b\r\n")) == PlainHead(
        b"/do",
        [
            (b"host", b"a"),
            (b"content-type", b"text/plain"),
            (b"x-request-id", b"a"),
            (b"x-request-id", b"b"),
            (b"content-length", b"5"),
        ],
        5,
        b"a",
    )


NOT_PLAIN = [
    post(version=b"1.0"),
    post(version=b"1.0", fields=b"Connection: keep-alive\r\n"),
    post(version=b"2.0"),
    post(fields=b"Connection: close\r\n"),
    post(fields=b"Host: b\r\n"),
    post().replace(b"Host: a\r\n", b""),
    post(fields=b"Content-Length: 5\r\n"),
    post().replace(b"Content-Length: 5\r\n", b""),
    post().replace(b"Content-Length: 5", b"Content-Length: +5"),
    post().replace(b"Content-Length: 5", b"Content-Length: 99999999999999999999999"),
    post(fields=b"Transfer-Encoding: chunked\r\n"),
    post(fields=b"Content-Encoding: gzip\r\n"),
    post(fields=b"Expect: 100-continue\r\n"),
    post(fields=b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    post(fields=b"Upgrade: h2c\r\n"),
    post(fields=b"X-A: b\r\n c\r\n"),
    post(fields=b"X-A : b\r\n"),
    post(fields=b"X-A: \0\r\n"),
    post(fields=b"X: y\r\n" * 8),
    post(fields=b"X: %b\r\n" % (b"y" * 5000)),
    post(path=b"/" + b"x" * 200),
    post().replace(b"\r\n", b"\n", 2),
    b"POST /do HTTP/1.1\nHost: a\nContent-Length: 7\n\nhe\r\n\r\nl",
    b"nonsense\r\n\r\n",
    b"\r\n\r\n",
]


@pytest.mark.parametrize("message", NOT_PLAIN)
def test_what_is_not_plain_is_nothing_and_does_not_harm_the_next_head(message: bytes) -> None:
    reader = HeadReader()
    assert read(reader, message) is None
    assert read(reader, post()) is not None


@given(
    st.lists(st.sampled_from([*NOT_PLAIN, post(), post(b""), post(b"longer"), post()[:-2], post(b"x" * 900)[:-900]]))
)
def test_one_reader_reads_as_a_fresh_one_does(messages: list[bytes]) -> None:
    reader = HeadReader()
    for message in messages:
        assert read(reader, message) == read(HeadReader(), message)
