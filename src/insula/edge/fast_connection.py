"""A connection with the fast lane: what the lane takes is answered before `data_received` returns.

The lane and the application never share a request. The lane acts only where the parser stands between two messages and no
answer is under way, and only on a message that has come whole; so answers keep their order, no late body is taken for a
request, and every timer and limit of the connection is the ordinary road's. Anything else goes to that road, byte for byte.

A header block that is known is not parsed; one that is not goes through the connection's own parser, with all its checks,
and the lane is offered the message only if the head ends exactly where the block does. A client whose blocks are new each
time soon stops adding to what is known. Head and body often come in two reads: a known head waits for the second one, for
a moment; what takes longer is the ordinary road's.

Of requests sent ahead a bounded number is answered at a time, and none while the client does not read its answers: the
rest is held, unread bytes stay with the client, and other connections have their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from insula.edge.asgi import App
from insula.edge.header_memo import Known
from insula.edge.lane import Lane
from insula.edge.limits import Limits
from insula.edge.listener import HttpConnection, ListenerConfig, Reading

#: Answers out of one read before other connections have their turn, and seconds that they may take.
IN_A_ROW = 32
TURN = 0.002
#: Blocks in a row that a connection may add to what is known without repeating one.
PATIENCE = 8
#: Seconds that a known head waits for the rest of its message.
SECOND_READ = 0.02


class FastConfig(ListenerConfig):
    """What the connections of a listener with a lane share."""

    def __init__(
        self,
        app: Any,
        limits: Limits,
        dropped: Callable[[str], None],
        emptied: Callable[[], None],
        ssl_context_factory: Any = None,
        *,
        lane: Lane,
    ) -> None:
        super().__init__(app, limits, dropped, emptied, ssl_context_factory, FastConnection)
        self.lane = lane


class FastConnection(HttpConnection):
    """The protocol of one connection; uvicorn makes it with the FastConfig of its listener."""

    def __init__(
        self,
        config: FastConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._lane = config.lane
        self._peer = ""
        self._answered = 0.0  # when the lane last answered, in seconds of the loop
        self._new_blocks = 0  # in a row
        self._offered = -1  # bytes that have come after the head which ends now, where the lane may take it
        self._met: Known | None = None  # the head that the parser has just read for the lane
        self._mine = False  # and its message is the lane's
        self._begun = b""  # a message whose head is known and whose rest is awaited
        self._rest: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            self._peer = self.client[0]

    def connection_lost(self, exc: Exception | None) -> None:
        self._take_begun()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self._give_up_begun()
        super().shutdown()

    # bytes in

    def data_received(self, data: bytes) -> None:
        running = self._running
        if (
            self._reading is Reading.HEAD
            and not self._began
            and not self._silent
            and not self._held
            and (running is None or running.response_complete)
        ):
            if self._begun:
                self._take(self._take_begun() + data, patient=False)
            else:
                self._take(data, patient=True)
            if self._awaited:
                self._watch()
        else:
            super().data_received(data)

    def _take(self, data: bytes, patient: bool) -> None:
        """Answers the messages in `data`, up to one that the lane does not take; the rest of one may be waited for."""
        lane, size = self._lane, len(data)
        start = count = 0
        began = monotonic()
        while True:
            if self.flow.write_paused or count == IN_A_ROW or (count and monotonic() - began > TURN):
                self._hold(data[start:])
                return
            end = data.find(b"\r\n\r\n", start) + 4
            known = lane.memo.get(data[start:end])
            if known is None:
                known = self._meet(data, start, end)
                if known is None:
                    return
            elif size - end < known.length:
                if patient:
                    self._begun = data[start:]
                    self._rest = self.loop.call_later(SECOND_READ, self._give_up_begun)
                    self._answered = self.loop.time()
                else:
                    self._feed(data[start:])
                return
            else:
                self._new_blocks = 0
            start = end + known.length
            answer = lane.answer(
                known,
                data[end:start],
                self._peer,
                self.scheme or "http",
                self.server_state.default_headers,
            )
            if not isinstance(answer, bytes):
                self._hand_over(answer)
                if start < size:
                    super().data_received(data[start:])
                return
            self.transport.write(answer)
            if start == size:
                break
            count += 1
            patient = True
        self._answered = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._rearm_keep_alive()

    def _meet(self, data: bytes, start: int, end: int) -> Known | None:
        """Has the parser read one message, the block of its head from `start` to `end`. None where the lane does not take
        it: then the ordinary road has it and all that follows."""
        if end < start + 4 or not data.startswith(b"POST ", start):
            self._feed(data[start:])
            return None
        parsed = end - 1
        self._parse(data[start:parsed])
        if self._reading is Reading.HEAD and self._began:
            self._offered = len(data) - end
            self._parse(data[parsed:end])
            self._offered = -1
            parsed = end
        known, self._met = self._met, None
        if known is not None and self._new_blocks < PATIENCE:
            self._new_blocks += 1
            self._lane.memo.put(data[start:end], known)
        if known is None or not self._mine:
            self._unset_keepalive_if_required()
            if parsed < len(data) and self._reading is not Reading.DEAF:
                self._feed(data[parsed:])
            return None
        if known.length:
            self._parse(data[end : end + known.length])
        self._mine = False
        return known

    def _hold(self, rest: bytes) -> None:
        """Keeps what is not answered yet for the next turn, or for when the client reads."""
        self._held = rest
        self.flow.pause_reading()
        if not self.flow.write_paused:
            self.loop.call_soon(self._release)

    def _release(self) -> None:
        if self._held and not self.flow.write_paused and not self._busy():
            data, self._held = self._held, b""
            self.flow.resume_reading()
            self.data_received(data)

    def _take_begun(self) -> bytes:
        """What has come of a message that waits for its rest; it waits no longer."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        begun, self._begun = self._begun, b""
        return begun

    def _give_up_begun(self) -> None:
        """The rest has not come: the message is the ordinary road's, with its rules for what is not whole."""
        begun = self._take_begun()
        if begun:
            self._feed(begun)

    # the parser's callbacks

    def _begin(self) -> None:
        if self._offered >= 0 and self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive():
            self._met = self._lane.meet(self.url, self.headers)
            self._mine = self._met is not None and self._met.length <= self._offered
        if not self._mine:
            super()._begin()

    def on_body(self, body: bytes) -> None:
        if not self._mine:
            super().on_body(body)
        else:
            self._heard = True
            self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        if not self._mine:
            super().on_message_complete()
            return
        self._heard = True
        self._reading = Reading.HEAD
        self._stages += 1
        self._silent = 0

    # answers out

    def _hand_over(self, finish: App) -> None:
        """The ordinary road finishes a request that the lane has begun: it waits, gives up, stops and keeps the order."""
        self._unset_keepalive_if_required()
        cycle = self.cycle = RequestResponseCycle(
            scope={"type": "http", "method": "POST"},  # type: ignore[typeddict-item]
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=self.on_response_complete,
        )
        cycle.more_body = False
        self._start_asgi_task(cycle, finish)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._held:
            self.loop.call_soon(self._release)

    def timeout_keep_alive_handler(self) -> None:
        """Ends an idle connection. The lane does not set the timer anew at each answer: where it has answered since, or
        has more to answer, the timer goes on for what is left."""
        idle = 0.0 if self._held or self._begun else self.loop.time() - self._answered
        left = self.timeout_keep_alive - idle
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()
