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
from time import monotonic

from insula.edge.asgi import App
from insula.edge.asgi_request import AsgiRequest
from insula.edge.connections import Connections
from insula.edge.exchange import Response
from insula.edge.http1 import Stage
from insula.edge.http_connection import COUNTED_FROM, HttpConnection
from insula.edge.lane import Lane
from insula.edge.late import LateAnswer

#: Answers out of one read before other connections have their turn, and seconds that they may take.
IN_A_ROW = 32
TURN = 0.002
#: Blocks in a row that a connection may add to what is known without repeating one.
PATIENCE = 8
#: Seconds that a known head waits for the rest of its message.
SECOND_READ = 0.02


class FastConnection(HttpConnection):
    """One connection of a listener with a lane."""

    __slots__ = (*("_begun", "_ended", "_intake", "_lane", "_memo", "_new_blocks", "_plain", "_second", "_waits"),)

    def __init__(self, shared: Connections, loop: asyncio.AbstractEventLoop, lane: Lane) -> None:
        super().__init__(shared, loop)
        self._lane = lane
        self._memo = lane.memo
        self._intake = lane.intake
        self._waits = False  # what is held waits for a later turn of the loop
        self._ended = False  # and the client has no more to say after it
        self._plain = False  # nothing is under way here: see `_settled`
        self._new_blocks = 0  # in a row
        self._begun = b""  # a message whose head the lane takes and whose rest is awaited
        self._second: asyncio.TimerHandle | None = None

    def connection_lost(self, _: Exception | None) -> None:
        self._plain = False
        self._take_begun()
        super().connection_lost(_)

    def shutdown(self) -> None:
        self._give_up_begun()
        self._come_in()
        self._plain = False
        super().shutdown()

    def eof_received(self) -> bool:
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
                self._idle.since = received
                self._new_blocks = 0
                answer = self._lane.answer(
                    known, data[end:], self.address, self._scheme, self.shared.default_fields, received
                )
                if answer.__class__ is bytes:
                    self.transport.write(answer)
                else:
                    self._wait_for(answer)  # type: ignore[arg-type]
                return
        if not self._held and self._reader.stage is not Stage.DEAF:
            now = monotonic()
            if now >= self._intake.until and self._intake.is_over(self.address, now):
                self._wait_for_turn(self.address, data)
                return
        super().data_received(data)

    def _received(self, data: bytes) -> None:
        if self._between():
            if self._begun:
                self._take(self._take_begun() + data, patient=False)
            else:
                self._take(data, patient=True)
            if self._read_clock.awaits:
                self._read_clock.watch()
            self._plain = self._settled()
        else:
            super()._received(data)

    def _between(self) -> bool:
        """Whether the parser stands between two messages and no answer is under way."""
        reader, request = self._reader, self._request
        return (
            reader.stage is Stage.HEAD
            and not reader.begun
            and not reader.events
            and not self._held
            and not self._last
            and (request is None or request.over)
        )

    def _settled(self) -> bool:
        """Whether the next bytes may be a message for the lane, with nothing else to see to. Whatever makes it otherwise
        sets `_plain` back: bytes for the parser, an answer that takes its time, a client that does not read, an end."""
        return (
            self._between()
            and not self._begun
            and not self._read_clock.awaits
            and not self.flow.write_paused
            and self._idle.runs
        )

    def _feed(self, data: bytes) -> None:
        self._plain = False
        super()._feed(data)

    def _deafen(self) -> None:
        self._plain = False
        super()._deafen()

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
                    self._second = self.loop.call_later(SECOND_READ, self._give_up_begun)
                    self._idle.since = monotonic()
                else:
                    self._feed(data[start:])
                return
            start = end + known.length
            answer = lane.answer(
                known, data[end:start], self.address, self._scheme, self.shared.default_fields, monotonic()
            )
            if not isinstance(answer, bytes):
                self._wait_for(answer)
                if start < size:
                    super()._received(data[start:])
                elif self._heard_out:
                    self._stop_after()
                return
            self.transport.write(answer)
            if start == size:
                break
            if not count:
                until = monotonic() + TURN
            count += 1
            patient = True
        self._rest()

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

    def waits(self) -> bool:
        return self._waits

    def has_more(self) -> bool:
        return bool(self._begun) or super().has_more()

    def _take_begun(self) -> bytes:
        """What has come of a message that waits for its rest; it waits no longer."""
        if self._second is not None:
            self._second.cancel()
            self._second = None
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
            self._request = answer
            answer.begin(self)
        else:
            self._hand_over(answer)

    def late(self, answer: LateAnswer, response: Response) -> None:
        """The answer that was waited for. Does not raise."""
        try:
            self._tell(answer, response)
        except Exception as error:
            self._broken(error)

    def _tell(self, late: LateAnswer, response: Response) -> None:
        late.complete = True
        if self.transport.is_closing():
            return
        told = self._lane.told(late.known, late.head, response, late.bytes_in, self.shared.default_fields)
        if not isinstance(told, bytes):
            self._hand_over(told, keep_alive=late.keep_alive)
            return
        if late.keep_alive:
            self.transport.write(told)
            self._next()
            self._plain = self._settled()
        else:
            self.transport.write(told.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
            self.linger()

    def _hand_over(self, finish: App, *, keep_alive: bool = True) -> None:
        """The ordinary road finishes a request that the lane has begun."""
        self._idle.stop()
        request = self._request = AsgiRequest(self, {"type": "http", "method": "POST"}, keep_alive=keep_alive)
        request.end()
        self.shared.add_task(request.begin(finish, self.loop))

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._held:
            self.loop.call_soon(self._release)
