"""A connection with the fast lane: what the lane takes is answered before `data_received` returns.

The lane and the application never share a request. The lane acts only where the parser stands between two messages and no
answer is under way, and only on a message that has come whole; so answers keep their order, no late body is taken for a
request, and every timer and limit of the connection is the ordinary road's. Anything else goes to that road, byte for byte.

A header block that is known is not parsed. One that is not is read by the lane, which takes it only if it is plain and ends
exactly where the block does; the connection's own parser sees none of what the lane takes. A client whose blocks are new
each time soon stops adding to what is known. Head and body often come in two reads: a plain head waits for the second one,
for a moment; what takes longer is the ordinary road's.

Of requests sent ahead a bounded number is answered at a time, and none while the client does not read its answers: the
rest is held, unread bytes stay with the client, and other connections have their turn. All connections together begin
requests for a bounded time of one turn of the loop (intake.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from insula.edge.asgi import App
from insula.edge.exchange import Response
from insula.edge.lane import Lane
from insula.edge.last_words import Last
from insula.edge.late import LateAnswer
from insula.edge.limits import Limits
from insula.edge.listener import COUNTED_FROM, HttpConnection, Reading
from insula.edge.listener_config import ListenerConfig

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
        self.intake = lane.intake


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
        self._memo = config.lane.memo
        self._intake = config.intake
        self._waits = False  # what is held waits for a later turn of the loop
        self._ended = False  # and the client has no more to say after it
        self._scheme = "http"
        self._plain = False  # nothing is under way here: see `_settled`
        self._answered = 0.0  # when the lane last answered, of time.monotonic()
        self._new_blocks = 0  # in a row
        self._begun = b""  # a message whose head the lane takes and whose rest is awaited
        self._rest: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._scheme = self.scheme or "http"

    def connection_lost(self, exc: Exception | None) -> None:
        self._plain = False
        self._take_begun()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self._give_up_begun()
        self._come_in()
        self._plain = False
        super().shutdown()

    def _quiet_since(self) -> float:
        return max(super()._quiet_since(), self._answered)

    def eof_received(self) -> bool:  # type: ignore[override]
        if self._waits:
            self._ended = True
            return True
        return super().eof_received()

    # bytes in

    def data_received(self, data: bytes) -> None:
        if self._plain:  # one message that is known and whole, as most are: `_take` without its cases
            end = data.find(b"\r\n\r\n") + 4
            known = self._memo.young.get(data[:end])
            if known is not None and len(data) - end == known.length:
                received = monotonic()
                if received >= self._intake.until and self._intake.is_over(known.route.tenant, received):
                    self._wait_for_turn(known.route.tenant, data)
                    return
                self._answered = received
                self._new_blocks = 0
                answer = self._lane.answer(
                    known, data[end:], self._address, self._scheme, self.server_state.default_headers, received
                )
                if answer.__class__ is bytes:
                    self.transport.write(answer)
                else:
                    self._wait_for(answer)  # type: ignore[arg-type]
                return
        if not self._held and self._reading is not Reading.DEAF:
            now = monotonic()
            if now >= self._intake.until and self._intake.is_over(self._address, now):
                self._wait_for_turn(self._address, data)
                return
        super().data_received(data)

    def _received(self, data: bytes) -> None:
        if self._between():
            if self._begun:
                self._take(self._take_begun() + data, patient=False)
            else:
                self._take(data, patient=True)
            if self._awaited:
                self._watch()
            self._plain = self._settled()
        else:
            super()._received(data)

    def _between(self) -> bool:
        """Whether the parser stands between two messages and no answer is under way."""
        running = self._running
        return (
            self._reading is Reading.HEAD
            and not self._began
            and not self._silent
            and not self._held
            and not self._last
            and (running is None or running.response_complete)
        )

    def _settled(self) -> bool:
        """Whether the next bytes may be a message for the lane, with nothing else to see to. Whatever makes it otherwise
        sets `_plain` back: bytes for the parser, an answer that takes its time, a client that does not read, an end."""
        return (
            self._between()
            and not self._begun
            and not self._awaited
            and not self.flow.write_paused
            and self.timeout_keep_alive_task is not None
        )

    def _feed(self, data: bytes) -> None:
        self._plain = False
        super()._feed(data)

    def _fail(self, last: Last, request_id: str = "") -> None:
        self._plain = False
        super()._fail(last, request_id)

    def _linger(self) -> None:
        self._plain = False
        super()._linger()

    def _shut(self) -> None:
        self._plain = False
        super()._shut()

    def pause_writing(self) -> None:
        self._plain = False
        super().pause_writing()

    def _take(self, data: bytes, patient: bool) -> None:
        """Answers the messages in `data`, up to one that the lane does not take; the rest of one may be waited for."""
        lane, size = self._lane, len(data)
        start = count = 0
        until = 0.0
        while True:
            if self.flow.write_paused or count == IN_A_ROW or (count and monotonic() > until):
                self._hold(data[start:])
                return
            end = data.find(b"\r\n\r\n", start) + 4
            block = data[start:end]
            known = lane.memo.get(block)
            if known is not None:
                if patient:
                    self._new_blocks = 0
            else:
                known = lane.meet(data, start, end, self.limits)
                if known is None:
                    self._feed(data[start:])
                    return
                if self._new_blocks < PATIENCE:
                    self._new_blocks += 1
                    lane.memo.put(block, known)
            if size - end < known.length:
                if patient:
                    self._begun = data[start:]
                    self._rest = self.loop.call_later(SECOND_READ, self._give_up_begun)
                    self._answered = monotonic()
                else:
                    self._feed(data[start:])
                return
            start = end + known.length
            answer = lane.answer(
                known, data[end:start], self._address, self._scheme, self.server_state.default_headers, monotonic()
            )
            if not isinstance(answer, bytes):
                self._wait_for(answer)
                if start < size:
                    super()._received(data[start:])
                return
            self.transport.write(answer)
            if start == size:
                break
            if not count:
                until = monotonic() + TURN
            count += 1
            patient = True
        self._answered = monotonic()
        if self.timeout_keep_alive_task is None:
            self._rearm_keep_alive()

    def _sent_ahead(self) -> int:
        return super()._sent_ahead() + len(self._begun)

    def give_up_ahead(self) -> None:
        self._take_begun()
        super().give_up_ahead()

    def _hold(self, rest: bytes) -> None:
        """Keeps what is not answered yet for the next turn, or for when the client reads."""
        self._plain = False
        self._held = rest
        self.flow.pause_reading()
        if not self.flow.write_paused:
            self.loop.call_soon(self._release)

    def _release(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self.flow.resume_reading()
            self.data_received(data)

    def _wait_for_turn(self, tenant: str, data: bytes) -> None:
        """Keeps what came for a later turn of the loop. `tenant` pays for a request that is known to be whole; anything
        else is its client's."""
        self._plain = False
        self._held = data
        self._waits = True
        self._intake.wait(tenant, self._come_in)
        if len(data) >= COUNTED_FROM:
            self.flow.pause_reading()
            self._count_ahead()

    def _come_in(self) -> None:
        """Begins what waits for its turn, if it still does."""
        if self._waits:
            self._waits = False
            if self._held:
                data, self._held = self._held, b""
                self.flow.resume_reading()
                super().data_received(data)
            if self._ended and not self.transport.is_closing():
                self._ended = False
                super().eof_received()

    def _overdue(self) -> None:
        if self._waits:  # it is the server that is late
            self._timer = self.loop.call_later(self.limits.head_timeout, self._overdue)
        else:
            super()._overdue()

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

    # answers out

    def _wait_for(self, answer: LateAnswer | App) -> None:
        """A request that the lane has begun is answered later."""
        self._plain = False
        if isinstance(answer, LateAnswer):
            self.cycle = self._running = answer  # type: ignore[assignment]
            answer.begin(self)
        else:
            self._hand_over(answer)

    def answered(self, late: LateAnswer, response: Response) -> None:
        """The answer that was waited for. Does not raise."""
        try:
            self._answer(late, response)
        except Exception as error:
            self._broken(error)

    def _answer(self, late: LateAnswer, response: Response) -> None:
        if self.transport.is_closing():
            late.response_complete = True
            return
        told = self._lane.told(late.known, late.head, response, late.bytes_in, self.server_state.default_headers)
        if not isinstance(told, bytes):
            self._hand_over(told, keep_alive=late.keep_alive)
            return
        if not late.keep_alive:
            told = told.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)
        self.transport.write(told)
        late.response_complete = True
        self._running = None
        if self.cycle is late:  # type: ignore[comparison-overlap]
            self.cycle = None  # type: ignore[assignment]
            if late.keep_alive and self._between() and not self._farewell:
                self._answered = monotonic()
                if self.timeout_keep_alive_task is None:
                    self._rearm_keep_alive()
                self._plain = self._settled()
                return
        if not late.keep_alive:
            self._linger()
        self.on_response_complete()

    def cut_off(self) -> bool:
        running = self._running
        if not isinstance(running, LateAnswer):
            return False
        running.cut_off()
        return True

    def _hand_over(self, finish: App, *, keep_alive: bool = True) -> None:
        """The ordinary road finishes a request that the lane has begun."""
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
            keep_alive=keep_alive,
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
        idle = 0.0 if self._held or self._begun or self._busy() else monotonic() - self._answered
        left = self.timeout_keep_alive - idle
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()
