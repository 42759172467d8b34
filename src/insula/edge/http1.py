"""A reader of HTTP/1.1 requests: bytes in, events out. It knows no transport, no loop and no clock.

httptools (llhttp) parses; what it lets pass and a port open to strangers should not is refused here.
- A head is bounded in bytes, fields and target. The fields of a chunked body's trailer are counted and dropped, so that
  nothing joins the head after it was checked. Chunks may not be mostly framing.
- What may be read in two ways (two lengths, a coding in two lines, a host in a trailer) is refused.
- Another protocol that nobody here speaks is refused: the body of the offer could be taken for a request. HTTP/2's offer
  beside an ordinary request is passed over.
- Nothing is read after the last request of a connection, nor after a refusal.

Bytes are fed a slice at a time, and a slice ends with a head, or with a body of known length, wherever that can be seen:
parsed requests take more memory than their bytes. So a client that sends many requests ahead cannot have them parsed faster
than they are answered.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeAlias

import httptools

from insula.edge.framing import NOT_IN_TRAILERS, framing_of
from insula.edge.last_words import Last
from insula.edge.limits import ConnectionLimits

#: Bytes of one slice, and of one of a body of known length.
SLICE = 2048
MEASURED = 65_536
#: Bytes of framing that a body may have, over sixteen for each byte of it.
FRAMING = 65_536


class Stage(enum.Enum):
    """What the bytes that come next are. HEAD -> BODY -> HEAD …; DEAF from either, and for ever."""

    HEAD = enum.auto()
    BODY = enum.auto()
    DEAF = enum.auto()


class RequestHead(NamedTuple):
    """A sound head. `target` as it came; header names are lower case. `keep_alive`: another request may follow. `expects`:
    the client waits for 100 before it sends the body. `upgrade` is the protocol that the connection changes to behind this
    head, lower case, if it does."""

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    expects: bool
    upgrade: bytes | None


class Data(NamedTuple):
    """A piece of a body."""

    piece: bytes


class End(NamedTuple):
    """The message is whole."""


class Refused(NamedTuple):
    """What came is no request, or one that is not served; the reader is deaf from here on. `in_body`: it belongs to the
    request whose head came last. `is_preface`: the client speaks HTTP/2."""

    last: Last
    in_body: bool
    is_preface: bool


Event: TypeAlias = RequestHead | Data | End | Refused

_END = End()


class Reader:
    """Reads the requests of one connection. `feed` appends to `events`; whoever takes them from there takes each once.

    `upgrades` is asked with the target and the protocol of an offer whether the connection changes to it. `stages` counts
    heads and bodies, so that a timer knows for which it was set. `rest` is what came behind the head of an upgrade."""

    __slots__ = (
        *(
            "_body_bytes",
            "_fault",
            "_head_bytes",
            "_headers",
            "_heard",
            "_ignores_upgrade",
            "_length",
            "_limits",
            "_parser",
        ),
        *("_raw_body", "_silent", "_started", "_target", "_upgrade", "_upgrades", "events", "rest", "stage", "stages"),
    )

    def __init__(self, limits: ConnectionLimits, upgrades: Callable[[bytes, bytes], bool]) -> None:
        self.events: deque[Event] = deque()
        self.stage = Stage.HEAD
        self.stages = 1
        self.rest = b""
        self._limits = limits
        self._upgrades = upgrades
        self._parser = httptools.HttpRequestParser(self)
        # what comes behind the last request is not read, and no error
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._fault: Last | None = None  # what a callback found wrong
        self._started = False  # a head has begun and is not whole
        self._heard = False  # the parser made something of the bytes just fed
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._upgrade: bytes | None = None
        self._ignores_upgrade = False
        self._head_bytes = self._silent = self._body_bytes = self._raw_body = 0
        self._length = -1  # of the body, where the head tells it

    @property
    def begun(self) -> bool:
        """Whether a part of a head has come."""
        return self._started or self._silent > 0

    @property
    def body_bytes(self) -> int:
        """Bytes of the present body that have come."""
        return self._body_bytes

    @property
    def partial(self) -> int:
        """Bytes that have come of a head that is not whole."""
        return self._silent + (self._head_bytes if self._started else 0)

    def deafen(self) -> None:
        """Nothing is read any more."""
        self.stage = Stage.DEAF

    def close(self) -> None:
        """Is deaf, and leaves no circle of objects behind."""
        self.stage = Stage.DEAF
        self.events.clear()
        self._parser = self._upgrades = None  # type: ignore[assignment]

    def feed(self, data: bytes, start: int = 0) -> int:
        """Reads one slice of `data`, and returns where the next one begins. An exception is a failure of this server."""
        end = self._slice(data, start)
        piece = data[start:end]
        self._heard = False
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as stop:
            self._changed(data, start + stop.args[0])
            return len(data)
        except httptools.HttpParserCallbackError as error:
            if self._fault is None:
                raise (error.__context__ or error) from None
            self._refuse(self._fault)
            return len(data)
        except httptools.HttpParserError:
            self._refuse(self._fault or Last.MALFORMED)
            return len(data)
        self._count(len(piece))
        return end

    def _slice(self, data: bytes, start: int) -> int:
        """Where the slice from `start` ends."""
        if self.stage is Stage.HEAD:
            end = data.find(b"\r\n\r\n", start, start + SLICE)
            end = end + 4 if end >= 0 else start + SLICE
        else:
            rest = self._length - self._body_bytes
            end = start + (min(MEASURED, rest) if rest > 0 else SLICE)
        return min(end, len(data))

    def _count(self, size: int) -> None:
        """Bounds what the parser took without a word."""
        if self.stage is Stage.BODY:
            self._raw_body += size
            if self._raw_body > FRAMING + 16 * self._body_bytes:
                self._refuse(Last.MALFORMED)
        elif self.stage is Stage.HEAD and not self._heard:
            self._silent += size
            if self._head_bytes + self._silent > self._limits.max_head:
                self._refuse(Last.HEAD_TOO_LARGE)

    def _refuse(self, last: Last) -> None:
        in_body = self.stage is Stage.BODY
        self.stage = Stage.DEAF
        self.events.append(Refused(last, in_body, self._parser.get_method() == b"PRI"))

    def _changed(self, data: bytes, behind: int) -> None:
        """The parser has stopped behind a head that offers another protocol."""
        self.stage = Stage.DEAF
        if not self._ignores_upgrade:
            self.rest = data[behind:]

    # the parser's callbacks

    def _reject(self, last: Last) -> NoReturn:
        """Stops the parser from within one of its callbacks."""
        self._fault = last
        raise ValueError(last.message)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._heard = self._started = True
        self._head_bytes = self._silent = self._body_bytes = self._raw_body = 0
        self.stages += 1
        self._target = b""
        self._headers = []

    def on_url(self, target: bytes) -> None:
        """A part of the target."""
        self._heard = True
        self._head_bytes += len(target)
        self._target += target
        if len(self._target) > self._limits.max_target:
            self._reject(Last.TARGET_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole field, of a head or of a trailer."""
        self._heard = True
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.max_head:
            self._reject(Last.HEAD_TOO_LARGE)
        name = name.lower()
        if self.stage is not Stage.HEAD:
            if name in NOT_IN_TRAILERS:
                self._reject(Last.MALFORMED)
            return
        headers = self._headers
        headers.append((name, value.rstrip(b" \t")))
        if len(headers) > self._limits.max_fields:
            self._reject(Last.HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The end of a head, or of a trailer."""
        self._heard = True
        if self.stage is not Stage.HEAD:
            return
        self.events.append(self._head())
        self.stage = Stage.BODY
        self._started = False
        self.stages += 1

    def _head(self) -> RequestHead:
        """The head, if it is sound and asks for nothing that is not spoken here."""
        parser, headers, target = self._parser, self._headers, self._target
        version = parser.get_http_version()
        framing = framing_of(version, target, headers)
        if isinstance(framing, Last):
            self._reject(framing)
        self._length = framing.length
        self._upgrade = None
        self._ignores_upgrade = False
        if parser.should_upgrade():
            if framing.upgrade is not None and framing.bodiless and self._upgrades(target, framing.upgrade):
                self._upgrade = framing.upgrade
            elif framing.upgrade == b"h2c" and framing.bodiless:
                self._ignores_upgrade = True
            else:
                self._reject(Last.UPGRADE)
        keep_alive = version != "1.0" and parser.should_keep_alive() and not self._ignores_upgrade
        expects = version != "1.0" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        if not target.startswith(b"/"):
            headers = _with_host_of(target, headers)
        return RequestHead(parser.get_method().decode(), target, version, headers, keep_alive, expects, self._upgrade)

    def on_body(self, piece: bytes) -> None:
        """A piece of a body."""
        self._heard = True
        if self.stage is Stage.BODY:
            self._body_bytes += len(piece)
            self.events.append(Data(piece))

    def on_message_complete(self) -> None:
        """The end of a message."""
        self._heard = True
        if self.stage is Stage.BODY:
            self.stage = Stage.HEAD
            self.stages += 1
            self._silent = 0
            self.events.append(_END)


def _with_host_of(target: bytes, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The fields of a request whose target is a whole URL: its host counts in place of the field (RFC 9112, 3.2.2)."""
    url = httptools.parse_url(target)
    if url.host is None:
        return headers
    host = b"[%b]" % url.host if b":" in url.host else url.host
    authority = host if url.port is None else b"%b:%d" % (host, url.port)
    return [(name, authority if name == b"host" else value) for name, value in headers]
