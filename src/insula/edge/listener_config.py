"""What the connections of one listener share, and how one connection takes part in the backlog of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvicorn

from insula.edge.backlog import Backlog
from insula.edge.limits import Limits

if TYPE_CHECKING:
    from insula.edge.listener import HttpConnection


class ListenerConfig(uvicorn.Config):
    """What the connections of one listener share: their protocol, its limits, how many were turned away, whom to tell what
    was dropped and when the last connection is gone."""

    def __init__(
        self,
        app: Any,
        limits: Limits,
        dropped: Callable[[str], None],
        emptied: Callable[[], None],
        ssl_context_factory: Any,
        protocol: type[HttpConnection],
    ) -> None:
        super().__init__(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ssl_context_factory=ssl_context_factory,
        )
        self.protocol = protocol
        self.limits = limits
        self.dropped = dropped
        self.emptied = emptied
        self.turned_away = 0
        self.stopping = False  # who connects from now on has one request
        self.unread = Backlog(limits.max_unread)


class Ahead:
    """What a connection holds of requests that are not answered yet, as a holder of the listener's backlog."""

    __slots__ = ("_connection", "counted")

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self.counted = False

    def give_up(self) -> None:
        self._connection.give_up_ahead()
