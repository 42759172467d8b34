"""What went wrong in a database, as this server sees it: which failures are one unit's own, which pass by themselves,
and what a caller is told.

Drivers put the statement and its values into their messages; those stay in the log of the operator (without values) and
never reach a caller.
"""

from __future__ import annotations

import enum
import logging

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from insula.errors import Code, InsulaError, LimitError, UnavailableError

log = logging.getLogger("insula.storage")


class Fault(enum.Enum):
    """Kinds of failure. OWN is the fault of the unit that met it; everything else concerns the whole transaction."""

    OWN = "own"
    LOST = "lost"
    AGAIN = "again"
    BUSY = "busy"
    FULL = "full"
    BROKEN = "broken"


#: Primary result codes of SQLite (sqlite.org/rescode.html).
_SQLITE = {5: Fault.BUSY, 6: Fault.BUSY, 13: Fault.FULL}
#: SQLSTATEs of PostgreSQL (its manual, appendix A): serialization failure, deadlock; lock or statement timeout; disk
#: full; shutdown, and a server that is only a replica now.
_POSTGRES = {
    "40001": Fault.AGAIN,
    "40P01": Fault.AGAIN,
    "55P03": Fault.BUSY,
    "57014": Fault.BUSY,
    "53100": Fault.FULL,
    "25006": Fault.LOST,
    "57P01": Fault.LOST,
    "57P02": Fault.LOST,
    "57P03": Fault.LOST,
}


def diagnose(error: DBAPIError) -> Fault:
    """The kind of failure that a driver's error is."""
    if error.connection_invalidated:
        return Fault.LOST
    number = getattr(error.orig, "sqlite_errorcode", None)
    if number is not None and number & 0xFF in _SQLITE:
        return _SQLITE[number & 0xFF]
    state = getattr(error.orig, "sqlstate", None)
    if state is not None and state in _POSTGRES:
        return _POSTGRES[state]
    if state is not None and state.startswith("08"):
        return Fault.LOST
    return Fault.OWN if isinstance(error, (IntegrityError, DataError, ProgrammingError)) else Fault.BROKEN


def is_damaged(error: DBAPIError) -> bool:
    """Whether a SQLite file is not, or no longer, a whole database."""
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in (11, 26)


def refusal(error: DBAPIError, *, committing: bool = False) -> InsulaError:
    """What the caller is told; what the driver said is logged here."""
    fault = diagnose(error)
    log.error("database failure (%s): %s", fault.value, wording(error))
    if fault is Fault.LOST:
        return unreachable(committing=committing)
    if fault is Fault.AGAIN or fault is Fault.BUSY:
        return UnavailableError("the database is busy", hint="try again", retry_after=1)
    if fault is Fault.FULL:
        return LimitError("the database has no room left", hint="the operator must make room on its disk", status=507)
    return InsulaError("the database failed", code=Code.INTERNAL, hint="the server's log says why")


def wording(error: DBAPIError) -> str:
    """The driver's error for the log. PostgreSQL writes values into its messages, so of its errors only names are kept."""
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return str(error.orig).partition("\n")[0]
    diag = getattr(error.orig, "diag", None)
    place = getattr(diag, "constraint_name", None) or getattr(diag, "table_name", None)
    return f"{type(error.orig).__name__} {state}{f' at {place}' if place else ''}"


def unreachable(*, committing: bool = False) -> UnavailableError:
    """The database is out of reach. `committing`: it went away while a commit was under way."""
    if committing:
        return UnavailableError(
            "the connection to the database was lost during a commit: the write may or may not have been made",
            hint="read the present state before trying again",
            reason="outcome_unknown",
        )
    return UnavailableError("the database cannot be reached", hint="try again", retry_after=1)
