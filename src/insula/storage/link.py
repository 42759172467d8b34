"""One connection that one thread keeps: made at first use, and made anew after it was lost."""

from __future__ import annotations

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from insula.storage.engine import scrub
from insula.storage.faults import log, unreachable
from insula.storage.presence import Presence


class Link:
    """Owner of one connection; `close` may be called twice. Used by one thread at a time."""

    def __init__(self, engine: Engine, presence: Presence | None = None) -> None:
        self.engine = engine
        self.presence = presence
        self._connection: Connection | None = None

    def connection(self) -> Connection:
        """The connection; UnavailableError where it cannot be made, or what is written by it could not be kept."""
        if self.presence is not None:
            self.presence.check()
        try:
            return self.connect()
        except DBAPIError as error:
            log.error("cannot connect: %s", scrub(str(error.orig), self.engine.url))
            raise unreachable() from None

    def connect(self) -> Connection:
        """The connection; what the driver raises where it cannot be made."""
        if self._connection is None:
            self._connection = self.engine.connect()
        return self._connection

    def close(self) -> None:
        """Drops the connection, with whatever transaction is open on it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except SQLAlchemyError as error:  # it is gone already, which is what was wanted
                log.debug("closing a lost connection: %s", type(error).__name__)
