"""The flow of bytes on one connection: whether it is read, and whether its client takes what is written."""

from __future__ import annotations

import asyncio


class Flow:
    """`read_paused` and `write_paused` are plain fields, for the hot path."""

    __slots__ = ("_transport", "_writable", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.read_paused = False
        self.write_paused = False
        self._transport = transport
        self._writable: asyncio.Event | None = None  # made for the first that waits

    def pause_reading(self) -> None:
        """What comes stays with the client."""
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """What comes is read again."""
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The client does not take what is written."""
        self.write_paused = True
        if self._writable is not None:
            self._writable.clear()

    def resume_writing(self) -> None:
        """The client has taken enough, or is gone."""
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()

    async def drain(self) -> None:
        """Waits until the client takes what is written."""
        while self.write_paused:
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()
