"""A connection that has become another protocol's: a WebSocket, HTTP/2, whatever comes.

The application that is asked for such a change finds `BECOME` among the extensions of the request's scope. It calls that
with a protocol of asyncio that has the two more methods of `Successor`; from then on the socket is the protocol's, which
also writes what the change is answered with (101).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from insula.edge.connections import Connections

#: The extension of a scope: a function that hands the connection to a `Successor`.
BECOME = "insula.become"


class Successor(Protocol):
    """What a connection may become."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def shutdown(self) -> None:
        """The listener stops: says goodbye and closes the transport, soon."""

    def cut_off(self) -> bool:
        """The grace of the stop is over: closes the transport now. Whether anything was under way."""


class Guest(asyncio.Protocol):
    """Stands in the registry of the listener for a connection that has become another protocol's."""

    def __init__(self, successor: Successor, transport: asyncio.Transport, shared: Connections) -> None:
        self._successor = successor
        self._transport = transport
        self._shared = shared
        # the loop calls the protocol's own methods
        self.data_received = successor.data_received  # type: ignore[method-assign]
        self.eof_received = successor.eof_received  # type: ignore[method-assign]
        self.pause_writing = successor.pause_writing  # type: ignore[method-assign]
        self.resume_writing = successor.resume_writing  # type: ignore[method-assign]

    def begin(self, rest: bytes) -> None:
        """The protocol takes over, with what has come for it already."""
        self._transport.set_protocol(self)
        self._successor.connection_made(self._transport)
        if rest and not self._transport.is_closing():
            self._successor.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.remove(self)
        try:
            self._successor.connection_lost(exc)
        finally:
            self.__dict__.clear()  # the two know each other by their methods

    def shutdown(self) -> None:
        """The listener stops."""
        self._successor.shutdown()

    def cut_off(self) -> bool:
        """The grace of the stop is over."""
        return self._successor.cut_off()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()
