"""One HTTP/1.1 connection: uvicorn's protocol, and around it everything that a port open to strangers needs.

The policy
- A client has a bounded time for each thing that it begins: its first byte, a head, a body, taking its answer. One timer
  bounds what is read. A body has more time the more of it came, and none runs while the server itself has paused reading.
- A head is bounded in bytes, fields and target; the fields of a chunked body's trailer are counted and dropped, so that
  nothing joins the head after it was checked. Chunks may not be mostly framing.
- What goes wrong here in reading is this server's fault and told as such: a 500, the log has the rest, and the connection
  ends. Only what the parser or a rule below finds wrong is the client's.
- What may be read in two ways (two lengths, a coding in two lines, a host in a trailer) is refused.
- What is not a request gets one whole answer, after the answers to the requests before it, and the connection ends. An
  upgrade that nobody serves is refused in the same way: its body could be taken for a request.
- Nothing is read as a request after the last one: a connection that is to close is deaf, and bytes are thrown away.
- A request that is answered before its body came may send a little more; then the connection ends. The last answer of a
  connection is followed by a half close and a short wait, since a reset would take the answer from the client's hands.
- Requests sent ahead are parsed a slice at a time, and no further while one waits: a client cannot make work faster than
  it is done. They are answered in order. What all clients sent ahead is bounded, together with the answers that they do not
  read: where it is too much, those of the client that holds most are not answered any more, after the one under way.
- Over the limit of connections a client gets a whole 503; too many of those at once are cut off.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from insula.edge.backlog import untaken
from insula.edge.ending import Ending, Parting
from insula.edge.framing import NOT_IN_TRAILERS, framing_of
from insula.edge.last_words import HTTP_1_1_REQUIRED, Last
from insula.edge.listener_config import Ahead, ListenerConfig
from insula.edge.request_id import new_request_id

_log = logging.getLogger("insula.edge")

#: Bytes that are parsed in one slice; after it the connection looks whether an answer is due. `MEASURED` is the same for a
#: body of known length. A slice ends with a head or such a body: parsed requests take more memory than their bytes.
SLICE = 2048
MEASURED = 65_536
#: Bytes of a body that may still come after its request was answered.
SPARE = 262_144
#: Bytes of framing that a body may have, over sixteen for each byte of it.
FRAMING = 65_536
#: Bytes of unanswered requests from which a connection is counted, and bytes that a parsed request counts beside its body.
COUNTED_FROM = 4096
PARSED = 2560
#: Connections over the limit that may be taking their 503 at once.
TURNED_AWAY = 64
#: Seconds that a connection stays open, when the listener stops, to a client that may be sending a request.
MOMENT = 0.1
#: Seconds that an answer is still waited for once the client has ended its half of the connection.
HEARD_OUT = 0.5


class Reading(enum.Enum):
    """What the bytes that come next are. HEAD -> BODY -> HEAD …; DEAF from either, and for ever."""

    HEAD = enum.auto()
    BODY = enum.auto()
    DEAF = enum.auto()


class HttpConnection(HttpToolsProtocol):
    """The protocol of one connection; uvicorn makes it with the ListenerConfig of its listener."""

    def __init__(
        self,
        config: ListenerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = config.limits
        self.listener = config
        self.timeout_keep_alive = config.limits.keep_alive_timeout  # type: ignore[assignment]
        self._reading = Reading.HEAD
        self._running: RequestResponseCycle | None = None
        self._address = ""  # of the client
        self._made = 0.0  # when, of the loop's time
        self._ahead = Ahead(self)
        self._held = b""  # came while a request waits for the one before it
        self._farewell = b""  # the last answer, due when those before it have been given
        self._fault: Last | None = None  # what a parser callback found wrong
        self._turned_away = False
        self._heard_out = False  # the client has ended its half
        self._last = False  # no request follows the present one, or the next where there is none
        self._ignored_upgrade = False
        # what has come of the present message
        self._stages = 1  # counts heads and bodies, so that a timer knows which one it was set for
        self._began = False
        self._heard = False  # the parser made something of the bytes just fed
        self._head_bytes = self._silent = self._body_bytes = self._raw_body = self._spare = 0
        self._length = -1  # of the body, where the head tells it
        # timers
        self._awaited = 0
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.TimerHandle | None = None
        self._unsent = 0

    # the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client is not None else ""
        self._made = self.loop.time()
        self._last = self.listener.stopping
        self._ending = Ending(transport, self.loop, self.limits)
        self._parting = Parting(transport, self._linger)
        listener = self.listener
        if len(self.connections) - listener.turned_away <= self.limits.max_connections:
            self._awaited = -1
            self._timer = self.loop.call_later(self.limits.first_byte_timeout, self._overdue)
            return
        listener.turned_away += 1
        self._turned_away = True
        if listener.turned_away > TURNED_AWAY:
            listener.dropped("cut_off")
            self._reading = Reading.DEAF
            transport.abort()
        else:
            self._fail(Last.FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._writer):
            if timer is not None:
                timer.cancel()
        self._timer = self._writer = None
        self._ending.stop()
        self.listener.unread.release(self)
        self.listener.unread.release(self._ahead)
        self._unset_keepalive_if_required()
        self._reading = Reading.DEAF
        self._held = self._farewell = b""
        if self._turned_away:
            self.listener.turned_away -= 1
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._part()
        if not self.connections:
            self.listener.emptied()

    def _part(self) -> None:
        """Leaves no circle behind: a connection goes with its last reference, not at some later look of the collector."""
        self._running = None
        self.cycle = self.parser = self._ahead = self._parting = None  # type: ignore[assignment]

    def shutdown(self) -> None:
        """The listener stops: ends the connection after the requests that it has begun, or now. Where the client may be
        sending one at this moment, since it has only just connected or got an answer, it has a moment for that."""
        self._held = b""
        self._last = True
        if self._busy():
            self.cycle.keep_alive = False
        elif self.loop.time() - self._quiet_since() < MOMENT:
            self.loop.call_later(MOMENT, self._shut_quiet)
        else:
            self._shut()

    def _quiet_since(self) -> float:
        """When the connection was made or last answered, of the loop's time."""
        keep_alive = self.timeout_keep_alive_task
        return self._made if keep_alive is None else keep_alive.when() - self.timeout_keep_alive

    def _shut_quiet(self) -> None:
        if not self._busy():
            self._shut()

    def cut_off(self) -> bool:
        """The server stops, and what is under way has had its grace: gives the answer of a request that no task works on;
        whether there was one."""
        return False

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client is gone, or has no more to say, which cannot be told apart: what was written has its time, and a
        request that is being answered has a moment (`HEARD_OUT`). Whether the transport stays open for that."""
        if not self._busy():
            self._ending.whole()
            return False
        self._last = self._heard_out = True
        self.cycle.keep_alive = False
        self.loop.call_later(HEARD_OUT, self._lose_patience)
        return True

    def _lose_patience(self) -> None:
        if not self._ending.begun:
            self._ending.whole()

    def abort(self) -> None:
        """Ends the connection at once, whatever is under way."""
        self.transport.abort()

    def _busy(self) -> bool:
        """Whether a request is being answered, or is still coming."""
        running = self._running
        return bool(self.pipeline) or (
            running is not None and not running.response_complete and not running.disconnected
        )

    # bytes in

    def data_received(self, data: bytes) -> None:
        try:
            self._received(data)
            self._count_ahead()
        except Exception as error:
            self._broken(error)

    def _count_ahead(self) -> None:
        """Counts what is held of requests that are not whole, or wait for the one before them."""
        size = self._sent_ahead() if self._reading is not Reading.DEAF else 0
        if size >= COUNTED_FROM:
            self._ahead.counted = True
            self.listener.unread.hold(self._ahead, size, self._address)
        elif self._ahead.counted:
            self._ahead.counted = False
            self.listener.unread.release(self._ahead)

    def _sent_ahead(self) -> int:
        size = len(self._held) + self._silent
        if self._began:
            size += self._head_bytes
        for cycle, _ in self.pipeline:
            size += PARSED + len(cycle.body)
        return size

    def give_up_ahead(self) -> None:
        """Drops the requests that were sent ahead, to make room for others: only the request under way is answered."""
        self._ahead.counted = False
        self.pipeline.clear()
        self.url, self.headers, self._began = b"", [], False
        self._fail(Last.AHEAD)

    def _received(self, data: bytes) -> None:
        if self._reading is Reading.DEAF:
            return
        if self._held:
            self._held += data
            self.flow.pause_reading()
            return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        start, size = 0, len(data)
        while start < size and self._reading is not Reading.DEAF:
            if self.pipeline and self._reading is Reading.HEAD:
                self._held = data[start:]
                self.flow.pause_reading()
                break
            end = self._slice(data, start)
            self._parse(data[start:end])
            start = end
        self._watch()

    def _slice(self, data: bytes, start: int) -> int:
        """Where the slice from `start` ends."""
        if self._reading is Reading.HEAD:
            end = data.find(b"\r\n\r\n", start, start + SLICE)
            return end + 4 if end >= 0 else start + SLICE
        rest = self._length - self._body_bytes
        return start + (min(MEASURED, rest) if rest > 0 else SLICE)

    def _parse(self, data: bytes) -> None:
        self._heard = False
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as stop:
            self._stopped(stop)
            return
        if self._reading is Reading.BODY:
            self._raw_body += len(data)
            if self._raw_body > FRAMING + 16 * self._body_bytes:
                self._fail(Last.MALFORMED)
        elif self._reading is Reading.HEAD and not self._heard:
            self._silent += len(data)
            if self._head_bytes + self._silent > self.limits.max_head:
                self._fail(Last.HEAD_TOO_LARGE)

    def _stopped(self, stop: Exception) -> None:
        """What stopped the parser: an upgrade, or what is no request."""
        if not isinstance(stop, httptools.HttpParserUpgrade):
            if self._fault is None and isinstance(stop, httptools.HttpParserCallbackError):
                self._broken(stop.__context__ or stop)
            else:
                self._fail(self._fault or Last.MALFORMED)
        elif self._ignored_upgrade:
            self._reading = Reading.DEAF  # answered as the HTTP/1.1 request that it also is; then the connection ends
        elif self._should_upgrade():
            self.handle_websocket_upgrade()
        else:
            self._fail(Last.UPGRADE)

    # the parser's callbacks

    def _reject(self, last: Last) -> NoReturn:
        """Stops the parser from within one of its callbacks."""
        self._fault = last
        raise ValueError(last.message)

    def on_message_begin(self) -> None:
        self._heard = self._began = True
        self._head_bytes = self._silent = self._body_bytes = self._raw_body = 0
        self._stages += 1
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_url(self, url: bytes) -> None:
        self._heard = True
        self._head_bytes += len(url)
        self.url += url
        if len(self.url) > self.limits.max_target:
            self._reject(Last.TARGET_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._heard = True
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self.limits.max_head:
            self._reject(Last.HEAD_TOO_LARGE)
        name = name.lower()
        if self._reading is not Reading.HEAD:
            if name in NOT_IN_TRAILERS:
                self._reject(Last.MALFORMED)
            return
        value = value.rstrip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        headers = self.headers
        headers.append((name, value))
        if len(headers) > self.limits.max_fields:
            self._reject(Last.HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._heard = True
        if self._reading is not Reading.HEAD:
            return
        self._check_head()
        self._begin()
        self._reading = Reading.BODY
        self._began = False
        self._stages += 1

    def _check_head(self) -> None:
        """Stops the parser where a head is not sound, or asks for what is not spoken here."""
        framing = framing_of(self.parser.get_http_version(), self.url, self.headers)
        if isinstance(framing, Last):
            self._reject(framing)
        self._length = framing.length
        if self.parser.should_upgrade() and not self._should_upgrade():
            if not framing.may_ignore_upgrade:
                self._reject(Last.UPGRADE)
            self._ignored_upgrade = True

    def _begin(self) -> None:
        """A sound head is whole: the application gets the request."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, and forgets what came
        self.url, self.expect_100_continue = url, expects
        self.headers = self.scope["headers"] = headers
        super().on_headers_complete()
        if self._ignored_upgrade or self._last:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.transport = self._parting  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)
        self._running = cycle

    def on_body(self, body: bytes) -> None:
        self._heard = True
        if self._reading is not Reading.BODY:
            return
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._spare -= len(body)
            if self._spare < 0:
                self._linger()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._heard = True
        if self._reading is not Reading.BODY:
            return
        self._reading = Reading.HEAD
        self._stages += 1
        self._silent = 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self._rearm_keep_alive()
        elif not self.cycle.keep_alive:
            self._reading = Reading.DEAF

    # answers out

    def on_response_complete(self) -> None:
        if self._ending.begun or self.transport.is_closing():
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        if self._reading is Reading.BODY and self.cycle.response_complete:
            self._unset_keepalive_if_required()
            if self.expect_100_continue:
                self._linger()  # whether the body still comes is not to be known
            else:
                self._spare = SPARE
                self._stop_timer()
                self._timer = self.loop.call_later(self.limits.linger, self._overdue)
        elif self._farewell and not self._busy():
            self._say(self._farewell)
        elif self._held and not self.pipeline:
            data, self._held = self._held, b""
            self.data_received(data)

    def _rearm_keep_alive(self) -> None:
        """The body of a request that was answered early has come whole: the connection is idle from now on."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self._shut()

    def give_up(self) -> None:
        """The unread answer is needed as room for others."""
        self.listener.dropped("slow_reader")
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self.listener.unread.hold(self, untaken(self.transport), self._address)
        self._writer = self.loop.call_later(self.limits.write_timeout, self._unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.listener.unread.release(self)
        if self._writer is not None:
            self._writer.cancel()
            self._writer = None

    def _unread(self) -> None:
        """The client has had its time to take what is written: more where it took enough, the end where it did not."""
        unsent = self.transport.get_write_buffer_size()
        if self._unsent - unsent >= self.limits.min_rate * self.limits.write_timeout:
            self._unsent = unsent
            self._writer = self.loop.call_later(self.limits.write_timeout, self._unread)
        else:
            self.give_up()

    # time

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        """Sets the timer for the head or body that is on its way, once, or stops it where none is."""
        if self._reading is Reading.BODY:
            seconds = self.limits.body_timeout
        elif self._reading is Reading.HEAD and (self._began or self._silent):
            seconds = self.limits.head_timeout
        else:
            seconds = 0.0
        awaited = self._stages if seconds else 0
        if awaited != self._awaited:
            self._awaited = awaited
            self._stop_timer()
            if seconds:
                self._since = self.loop.time()
                self._timer = self.loop.call_later(seconds, self._overdue)

    def _overdue(self) -> None:
        self._timer = None
        if self._reading is Reading.HEAD:
            if self._busy():
                self._timer = self.loop.call_later(self.limits.head_timeout, self._overdue)
            elif self._awaited < 0:
                self.listener.dropped("silent")
                self._shut()
            else:
                self._fail(Last.HEAD_TIMEOUT)
        elif self._reading is Reading.BODY:
            if self.cycle.response_complete:
                self._linger()
                return
            now = self.loop.time()
            if self.flow.read_paused:
                self._since = now
            left = self._since + self.limits.body_timeout + self._body_bytes / self.limits.min_rate - now
            if left > 0:
                self._timer = self.loop.call_later(left, self._overdue)
            else:
                self._fail(Last.BODY_TIMEOUT)

    # the end

    def _broken(self, error: BaseException) -> None:
        """Reading failed for a reason of ours: the log has it, and the client a whole 500."""
        request_id = new_request_id()
        _log.error("a request could not be read (request %s)", request_id, exc_info=error)
        try:
            if self._reading is Reading.HEAD and not self._began and self._busy():
                # no request is half read: those before have their answers, and no other answer is due
                self.listener.dropped(Last.INTERNAL.reason)
                self._reading = Reading.DEAF
                self._held = b""
                self.cycle.keep_alive = False
            else:
                self._fail(Last.INTERNAL, request_id)
        except Exception:
            _log.exception("a connection could not be ended in order (request %s)", request_id)
            self._reading = Reading.DEAF
            self.transport.abort()

    def _fail(self, last: Last, request_id: str = "") -> None:
        """Ends the connection with `last`, once the requests before this one have been answered."""
        self.listener.dropped(last.reason)
        in_body = self._reading is Reading.BODY
        self._reading = Reading.DEAF
        self._held = b""
        self._watch()
        words = last.encode(self.server_state.default_headers, request_id)
        if last is Last.MALFORMED and self.parser.get_method() == b"PRI":
            words = HTTP_1_1_REQUIRED
        if in_body:
            cycle = self.cycle
            if self.pipeline and self.pipeline[0][0] is cycle:
                self.pipeline.popleft()
            else:
                answered = cycle.response_started
                if not cycle.response_complete:
                    cycle.disconnected = True
                    cycle.message_event.set()
                if answered:
                    self._linger()
                    return
        if self._busy():
            self._farewell = words
        else:
            self._say(words)

    def _say(self, words: bytes) -> None:
        self._farewell = b""
        if not self.transport.is_closing():
            self.transport.write(words)
            self._linger()

    def _linger(self) -> None:
        """Ends our half of the connection and gives the client a moment to take what was said."""
        self._be_deaf()
        if not self.transport.is_closing():
            self.flow.resume_reading()
        if self._heard_out:
            self._ending.whole()
        else:
            self._ending.half()

    def _shut(self) -> None:
        """Closes once all that is written has been taken, or when the client has had its time for that."""
        self._be_deaf()
        self._ending.whole()

    def _be_deaf(self) -> None:
        self._reading = Reading.DEAF
        self._stop_timer()
        self._unset_keepalive_if_required()
