"""Statements that the driver runs: the same rows, values and errors as SQLAlchemy's own way, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import bindparam, insert, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from insula.storage import migrate
from insula.storage.engine import create_file, make_engine, parse_url
from insula.storage.faults import Fault, diagnose
from insula.storage.link import Link
from insula.storage.statements import Statement
from insula.storage.tables import state, state_usage

_ADD = Statement(insert(state_usage))
_USAGE = {"service_id": "a", "key_count": 1, "byte_count": 2, "floor": 3}


@contextmanager
def connected(place: str) -> Iterator[Connection]:
    """A connection with a transaction under way."""
    url = parse_url(place, "url")
    create_file(url, "url")
    link = Link(make_engine(url, read_only=False))
    migrate.ensure(link, "url")
    connection = link.connection()
    connection.begin()
    yield connection
    link.close()


@pytest.fixture
def connection(fresh_url: str) -> Iterator[Connection]:
    with connected(fresh_url) as connection:
        yield connection


def test_values_go_in_and_come_out_as_they_were(connection: Connection) -> None:
    row = {"service_id": "s", "key": "k", "value": '"é"', "version": 2**63 - 1, "modified": -1, "expires": None}
    Statement(insert(state)).run(connection, row)
    clause = select(state).where(state.c.expires.is_(None), state.c.key == bindparam("b_key"))
    found = Statement(clause).row(connection, {"b_key": "k"})
    assert found is not None
    assert tuple(found) == tuple(row.values()) == tuple(connection.execute(clause, {"b_key": "k"}).one())
    assert Statement(clause).row(connection, {"b_key": "other"}) is None


def test_a_value_that_is_the_statements_own_is_bound_too(connection: Connection) -> None:
    for name in "abc":
        _ADD.run(connection, {**_USAGE, "service_id": name})
    names = select(state_usage.c.service_id).order_by(state_usage.c.service_id)
    most = Statement(names.limit(bindparam("b_most")))
    assert [tuple(row) for row in most.run(connection, {"b_most": 2})] == [("a",), ("b",)]
    assert [tuple(row) for row in Statement(names.limit(1).offset(2)).run(connection)] == [("c",)]


def test_its_errors_are_told_apart_as_sqlalchemys_are(connection: Connection) -> None:
    _ADD.run(connection, _USAGE)
    with pytest.raises(IntegrityError) as caught:
        _ADD.run(connection, {**_USAGE, "floor": 777_777})
    assert diagnose(caught.value) is Fault.OWN
    assert "777777" not in str(caught.value), "values are in no message"


def test_one_statement_serves_databases_of_both_kinds(connection: Connection, tmp_path: Path) -> None:
    statement = Statement(select(state_usage.c.floor).where(state_usage.c.service_id == bindparam("b_id")))
    other = make_engine(parse_url(f"sqlite:///{tmp_path}/other.db", "url"), read_only=False).connect()
    other.execute(text("CREATE TABLE insula_state_usage (service_id TEXT, floor INTEGER)"))
    for each in (connection, other, connection):
        assert statement.row(each, {"b_id": "a"}) is None
    other.close()


def test_a_connection_that_was_cut_is_known_as_lost(postgres_url: str) -> None:
    with connected(postgres_url) as connection:
        with pytest.raises(DBAPIError) as caught:
            Statement("SELECT pg_terminate_backend(pg_backend_pid())").run(connection)
        assert caught.value.connection_invalidated
        assert connection.invalidated
        assert diagnose(caught.value) is Fault.LOST
