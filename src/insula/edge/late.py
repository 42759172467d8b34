"""A call that the fast lane has begun and whose answer is not there yet.

It stands in the place of uvicorn's cycle, and has no task and no message: what is waited for calls it when it is done. Each
step of it, down to the bytes of the answer, is done in a turn of the loop that has time for its tenant (intake.py); so a
thousand answers that come at once are not one long turn. It ends once: with an answer, or when its client has left.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Protocol

from insula.background import unheard
from insula.edge.answers import CutOffError, checked, failed
from insula.edge.app import SLACK, Application
from insula.edge.exchange import Answer, Head, Later, Response
from insula.edge.header_memo import Known
from insula.edge.observing import CLIENT_GONE, answered
from insula.errors import Code, DeadlineError, InsulaError


class Asker(Protocol):
    """The connection that asked: it gets the answer, once."""

    loop: asyncio.AbstractEventLoop

    def late(self, answer: LateAnswer, response: Response) -> None: ...


class LateAnswer:
    """One request whose `answer` comes later. `bytes_in` is the size of its body. `started` and `complete` are of what is
    written of its answer; the connection sets `complete`. `keep_alive`: the connection goes on behind it."""

    __slots__ = (
        "_answer",
        "_app",
        "_connection",
        "_gone",
        "_over",
        "_timer",
        "bytes_in",
        "complete",
        "head",
        "keep_alive",
        "known",
    )

    started = False

    def __init__(self, app: Application, known: Known, head: Head, answer: Answer, bytes_in: int) -> None:
        self.known = known
        self.head = head
        self.bytes_in = bytes_in
        self.keep_alive = True
        self.complete = self._gone = self._over = False
        self._app = app
        self._answer = answer

    def begin(self, connection: Asker) -> None:
        """Waits for the answer, which goes to `connection.late`."""
        self._connection = connection
        self._app.metrics.in_flight += 1
        self._timer = connection.loop.call_later(self.known.route.timeout + SLACK, self._late)
        self._wait(self._answer)

    def cut_off(self) -> bool:
        """The server stops, and this request has had its grace: it still gets a whole answer."""
        self._later(CutOffError())
        return True

    @property
    def over(self) -> bool:
        """Whether nothing more is to be said."""
        return self.complete or self._gone

    def left(self) -> None:
        """The client has left: the call is cancelled."""
        self._gone = True
        if not self._over:
            self._end()
            answered(self.known.observers, self.head, CLIENT_GONE, self.bytes_in, 0)
            self._app.intake.run(self.known.route.tenant, self._cancel)

    def _cancel(self) -> None:
        self._waited.cancel()

    @property
    def _waited(self) -> asyncio.Future[Any]:
        answer = self._answer
        assert not isinstance(answer, Response)
        return answer.waited if isinstance(answer, Later) else answer

    def _wait(self, answer: Answer) -> None:
        self._answer = answer
        self._waited.add_done_callback(self._done)

    def _done(self, _: asyncio.Future[Any]) -> None:
        self._app.intake.run(self.known.route.tenant, self._step)

    def _step(self) -> None:
        answer, waited = self._answer, self._waited
        if self._over:
            if not waited.cancelled():
                unheard(waited.exception(), "a call")
            return
        head, route = self.head, self.known.route
        try:
            if waited.cancelled():
                raise InsulaError("the call was cancelled", code=Code.CANCELED)
            made = waited.result()
            if isinstance(answer, Later):
                made = answer.finish(made)
            if not isinstance(made, Response):
                self._wait(made)
                return
            response = checked(head, route, made)
        except Exception as error:
            response = failed(head, route, error)
        self._end()
        self._connection.late(self, response)

    def _late(self) -> None:
        self._later(DeadlineError("the call's time was over before there was an answer"))

    def _later(self, error: InsulaError) -> None:
        """Gives up in a turn that has time."""
        self._app.intake.run(self.known.route.tenant, partial(self._give_up, error))

    def _give_up(self, error: InsulaError) -> None:
        if not self._over:
            self._end()
            self._waited.cancel()
            self._connection.late(self, failed(self.head, self.known.route, error))

    def _end(self) -> None:
        self._over = True
        self._timer.cancel()
        self._app.metrics.in_flight -= 1
