"""Reads the head of a message that is here whole, by the same strict parser that reads connections.

It is for heads that have to be plain to be of use: whatever is not gets None, and the connection's own parser, with all of
its rules, has the last word on it. Nothing is kept from one head to the next but a parser that stands between two messages;
one that does not is thrown away.
"""

from __future__ import annotations

from typing import NamedTuple

import httptools

from insula.edge.limits import ConnectionLimits

#: Headers that make a request more than plain.
_NOT_PLAIN = frozenset((b"content-encoding", b"expect", b"transfer-encoding", b"upgrade"))


class PlainHead(NamedTuple):
    """A sound head of HTTP/1.1 on a connection that goes on: one host, one length, no coding, no expectation, no upgrade.
    Header names are lower case; `request_id` is what the client sent as such, if anything."""

    target: bytes
    headers: list[tuple[bytes, bytes]]
    length: int
    request_id: bytes | None


class HeadReader:
    """One parser for the heads of one listener; it is used by one connection at a time, within one call."""

    def __init__(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._complete = False
        self._goes_on = False
        self._parser = httptools.HttpRequestParser(self)

    def read(self, data: bytes, start: int, end: int, limits: ConnectionLimits) -> PlainHead | None:
        """The head from `start` to `end`, which is behind its empty line, or None where it is not plain, is larger than
        `limits` allow, or does not end exactly there."""
        if end - start > limits.max_head:
            return None
        self._target, self._headers, self._complete = b"", [], False
        parser = self._parser
        head = None
        try:
            parser.feed_data(data[start : end - 1])
            if not self._complete:
                parser.feed_data(data[end - 1 : end])
                head = self._plain(limits) if self._complete else None
                if head is not None and head.length:
                    parser.feed_data(data[end : end + head.length])
        except httptools.HttpParserCallbackError as error:  # ours, and not the client's
            self._parser = httptools.HttpRequestParser(self)
            raise error.__context__ or error from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            head = None
        if head is None or len(data) - end < head.length:
            self._parser = httptools.HttpRequestParser(self)
        return head

    def _plain(self, limits: ConnectionLimits) -> PlainHead | None:
        headers = self._headers
        if not (self._goes_on and len(headers) <= limits.max_fields and len(self._target) <= limits.max_target):
            return None
        hosts = lengths = length = 0
        request_id = None
        for name, value in headers:
            if name in _NOT_PLAIN:
                return None
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                lengths += 1
                length = int(value)  # the parser has seen to it that these are digits that fit 64 bits
            elif name == b"x-request-id" and request_id is None:
                request_id = value
        return PlainHead(self._target, headers, length, request_id) if hosts == lengths == 1 else None

    # the parser's callbacks

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The end of the head."""
        self._complete = True
        self._goes_on = self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1"
