"""Statements that guests cause by the thousand: built by SQLAlchemy, compiled once for each kind of database, and run by
the driver itself.

Policy. SQLAlchemy's own `execute` takes some 14 us of Python for a statement that SQLite carries out in one, and
`begin_nested` another 40: the writer's thread would hold the interpreter for longer than the event loop. What is seldom
run (deployments, migrations, sweeps) goes by SQLAlchemy, whose errors these here are told as.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Executable, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ClauseElement


class _Compiled(NamedTuple):
    sql: str
    #: The names of the values where the database knows them by place.
    order: tuple[str, ...] | None
    #: Values that are the statement's own (the OFFSET that SQLAlchemy adds to a LIMIT on SQLite).
    constants: dict[str, object]


class Statement:
    """One statement. It is run within the transaction that is open on the connection; its values are bound as they are, so
    its columns are of types that SQLAlchemy does not convert (text, integers)."""

    __slots__ = ("_clause", "_compiled")

    def __init__(self, clause: Executable | str) -> None:
        self._clause = text(clause) if isinstance(clause, str) else clause
        self._compiled: dict[str, _Compiled] = {}

    def run(self, connection: Connection, values: Mapping[str, object] | None = None) -> Any:
        """Runs it; the driver's cursor. DBAPIError as of SQLAlchemy, and a connection found lost is invalidated."""
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = self._compile(connection)
        sql, order, constants = compiled
        values = {**constants, **values} if constants and values else values or constants
        driver: Any = connection.connection.driver_connection
        try:
            return driver.execute(sql, values if order is None else [values[name] for name in order])
        except dialect.loaded_dbapi.Error as error:
            lost = dialect.is_disconnect(error, driver, None)
            if lost:
                connection.invalidate(error)
            raise DBAPIError.instance(
                sql,
                None,
                error,
                dialect.loaded_dbapi.Error,
                hide_parameters=True,
                connection_invalidated=lost,
                dialect=dialect,
            ) from None

    def row(self, connection: Connection, values: Mapping[str, object] | None = None) -> tuple[Any, ...] | None:
        """Runs it; the first row, None where there is none."""
        row: tuple[Any, ...] | None = self.run(connection, values).fetchone()
        return row

    def _compile(self, connection: Connection) -> _Compiled:
        assert isinstance(self._clause, ClauseElement)
        made: Any = self._clause.compile(dialect=connection.dialect)
        order = None if made.positiontup is None else tuple(made.positiontup)
        return _Compiled(str(made), order, {name: value for name, value in made.params.items() if value is not None})
