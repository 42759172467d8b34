"""The types of ASGI, as far as they are used here, and sending at a stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


async def sent_whole(send: Send, message: Message) -> None:
    """Sends a part of a whole answer, which may have to wait until the client takes the answers before it. A server that
    stops cancels who waits, and then gives the client a last moment and ends the connection: either ends the waiting."""
    while True:
        try:
            await send(message)
            return
        except asyncio.CancelledError:
            continue
