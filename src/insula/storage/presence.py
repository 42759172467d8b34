"""Whether the file of a SQLite database is still where it was opened.

SQLite goes on writing into a file that was removed, or that another was put in the place of, and every such write is lost
with the process. So each transaction looks first: what cannot be kept is not acknowledged.
"""

from __future__ import annotations

import os

from sqlalchemy.engine import URL

from insula.errors import UnavailableError
from insula.storage.faults import log


class Presence:
    """Of one database, from the moment this is made: the file is there then. A look costs a microsecond."""

    def __init__(self, url: URL) -> None:
        self._path = url.database if url.drivername.startswith("sqlite") else None
        self._was = self._look()

    def check(self) -> None:
        """UnavailableError where the file is gone or another one; for ever after it was once replaced."""
        if self._path is not None and self._look() != self._was:
            log.error("%s was removed or replaced: stop the server, put the file back, and start it again", self._path)
            raise UnavailableError(
                "the database's file is gone: nothing can be kept", reason="database_gone", hint="tell the operator"
            )

    def _look(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino
