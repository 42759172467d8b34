"""The durable state of guests: values under keys, with versions, expiry and atomic conditions.

Policy. The scope is the full service id: two versions side by side have data of their own, so that a new one that
writes another shape cannot break the old one; an override, a rollback and a restart keep it.

A version grows by one with each write of its key. A key that was removed (deleted or expired) and made again goes on
above every version that a removed key of the service ever had, so that an `if_version` taken before can never match.
Expiry is by the wall clock, and what has expired is absent to every operation from that moment on; its room is taken
back by `sweep`, or at once where a quota would refuse a write for it.

Every write takes the service's row of `state_usage` first, which makes the writes of one service take turns on
PostgreSQL too, and keeps its count of keys and bytes true.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from sqlalchemy import BindParameter, bindparam, delete, insert, or_, select, update
from sqlalchemy.engine import Connection

from insula.errors import CallerError, Code, InsulaError, LimitError
from insula.storage.database import Database
from insula.storage.faults import log
from insula.storage.statements import Statement
from insula.storage.tables import state, state_usage

KEY = re.compile(r"[A-Za-z0-9_\-/:]{1,512}")
PREFIX = re.compile(r"[A-Za-z0-9_\-/:]{0,512}")
MAX_VALUE = 1 << 20
MAX_LIST = 1000
MAX_TTL = 100 * 365 * 86400.0
MAX_INT = (1 << 63) - 1
SWEEP_BATCH = 500

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

_service: BindParameter[str] = bindparam("b_service")
_key: BindParameter[str] = bindparam("b_key")
_now: BindParameter[int] = bindparam("b_now")
_its = (state.c.service_id == _service) & (state.c.key == _key)
_alive = or_(state.c.expires.is_(None), state.c.expires > _now)

_GET = Statement(select(state.c.value, state.c.version, state.c.modified).where(_its, _alive))
_ROW = Statement(select(state.c.value, state.c.version, state.c.expires).where(_its))
_INSERT = Statement(insert(state))
_UPDATE = Statement(
    update(state)
    .where(_its)
    .values(
        value=bindparam("b_value"),
        version=bindparam("b_version"),
        modified=bindparam("b_modified"),
        expires=bindparam("b_expires"),
    )
)
_DELETE = Statement(delete(state).where(_its))
_KEYS_OF = (
    select(state.c.key)
    .where(state.c.service_id == _service, _alive, state.c.key > bindparam("b_after"))
    .order_by(state.c.key)
    .limit(bindparam("b_limit"))
)
_KEYS = Statement(_KEYS_OF)
_KEYS_FROM = Statement(_KEYS_OF.where(state.c.key >= bindparam("b_from"), state.c.key < bindparam("b_until")))
_USAGE = Statement(
    select(state_usage.c.key_count, state_usage.c.byte_count, state_usage.c.floor)
    .where(state_usage.c.service_id == _service)
    .with_for_update()
)
#: The same words on SQLite and PostgreSQL; another server may insert the row at the same moment.
_NEW_USAGE = Statement(
    "INSERT INTO insula_state_usage (service_id, key_count, byte_count, floor)"
    " VALUES (:b_service, 0, 0, 0) ON CONFLICT DO NOTHING"
)
_SET_USAGE = Statement(
    update(state_usage)
    .where(state_usage.c.service_id == _service)
    .values(key_count=bindparam("b_keys"), byte_count=bindparam("b_bytes"), floor=bindparam("b_floor"))
)
_STALE_SERVICES = select(state.c.service_id).where(state.c.expires <= _now).distinct().limit(100)
_STALE = (
    select(state.c.key, state.c.value, state.c.version)
    .where(state.c.service_id == _service, state.c.expires <= _now)
    .limit(SWEEP_BATCH)
)


class StateValue(NamedTuple):
    """A value as JSON text, its version, and when it was written, in Unix milliseconds."""

    data: str
    version: int
    modified: int


class _Usage(NamedTuple):
    keys: int
    bytes: int
    floor: int

    def without(self, key: str, value: str, version: int) -> _Usage:
        return _Usage(self.keys - 1, self.bytes - _bytes(key, value), max(self.floor, version))


class StateRepository:
    """The state of every service. `max_keys` and `max_bytes` (keys and values together) bound each service; `clock`
    gives Unix seconds."""

    def __init__(
        self,
        db: Database,
        *,
        max_keys: int = 100_000,
        max_bytes: int = 256_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._clock = clock

    async def get(self, service: str, key: str, *, timeout: float | None = None) -> StateValue | None:
        """The value, or None where there is none."""
        values = {"b_service": service, "b_key": _checked_key(key), "b_now": self._now()}

        def unit(connection: Connection) -> StateValue | None:
            row = _GET.row(connection, values)
            return None if row is None else StateValue(*row)

        return await self._db.read(unit, tenant=service, timeout=timeout)

    async def set(
        self,
        service: str,
        key: str,
        value: str,
        *,
        ttl: float | None = None,
        if_version: int | None = None,
        if_absent: bool = False,
        timeout: float | None = None,
    ) -> StateValue:
        """Writes a value (JSON text). It lives for `ttl` seconds, for ever without one. CallerError `aborted` where it is
        not at `if_version`, or is there with `if_absent`; LimitError for a value over 1 MiB and for a full quota."""
        _checked_key(key)
        if if_absent and if_version is not None:
            raise CallerError("ifVersion and ifAbsent contradict each other", hint="send one of them")
        if ttl is not None and not 0 < ttl <= MAX_TTL:
            raise CallerError("ttl must be above 0 seconds and at most 100 years")
        if len(value) > MAX_VALUE or len(value.encode()) > MAX_VALUE:
            raise LimitError(f"a value is at most {MAX_VALUE} bytes of JSON")

        def unit(connection: Connection) -> StateValue:
            now = self._now()
            held = _Held.load(connection, service, key, now)
            if if_absent and held.value is not None:
                raise _conflict(f"{key} is there already", "stale_version")
            held.expect(if_version)
            return self._store(connection, held, value, now, None if ttl is None else now + math.ceil(ttl * 1000))

        return await self._db.write(unit, lock=service, tenant=service, size=len(value), timeout=timeout)

    async def delete(
        self, service: str, key: str, *, if_version: int | None = None, timeout: float | None = None
    ) -> bool:
        """Removes the key; whether it was there. CallerError `aborted` where it is not at `if_version`."""
        _checked_key(key)

        def unit(connection: Connection) -> bool:
            held = _Held.load(connection, service, key, self._now())
            held.expect(if_version)
            if held.row_value is None:
                return False
            _DELETE.run(connection, {"b_service": service, "b_key": key})
            _set_usage(connection, service, held.usage.without(key, held.row_value, held.row_version))
            return held.value is not None

        return await self._db.write(unit, lock=service, tenant=service, timeout=timeout)

    async def increment(
        self, service: str, key: str, delta: int | float = 1, *, timeout: float | None = None
    ) -> int | float:
        """Adds to a number and returns the sum; an absent key counts as 0, expiry is kept. Integers stay exact.
        CallerError: `failed_precondition` where the value is no number, `out_of_range` where the sum leaves 64 bits (or
        the doubles)."""
        _checked_key(key)
        if not _in_range(delta):
            raise CallerError("delta is out of range")

        def unit(connection: Connection) -> int | float:
            now = self._now()
            held = _Held.load(connection, service, key, now)
            total = _number(key, held.value) + delta
            if not _in_range(total):
                raise CallerError(f"the sum at {key} is out of range", code=Code.OUT_OF_RANGE)
            self._store(connection, held, repr(total), now, held.expires)
            return total

        return await self._db.write(unit, lock=service, tenant=service, timeout=timeout)

    async def list_keys(
        self,
        service: str,
        prefix: str = "",
        *,
        limit: int = 100,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> tuple[list[str], str | None]:
        """The keys with a prefix in the order of their bytes, `limit` at most, and the cursor of the rest (None where
        that was all). Keys written meanwhile neither shift nor repeat a page."""
        if not PREFIX.fullmatch(prefix):
            raise CallerError("a prefix holds letters, digits and _ - / : alone, 512 at most")
        if cursor is not None and not KEY.fullmatch(cursor):
            raise CallerError("this is no cursor of a list", hint="send the cursor of the answer before, as it was")
        if not 1 <= limit <= MAX_LIST:
            raise CallerError(f"limit is 1 to {MAX_LIST}")
        values: dict[str, object] = {
            "b_service": service,
            "b_now": self._now(),
            "b_after": cursor or "",
            "b_limit": limit + 1,
        }
        statement = _KEYS
        if prefix:  # keys are ASCII, so the first text after all that begin with it differs in the last character
            statement = _KEYS_FROM
            values |= {"b_from": prefix, "b_until": prefix[:-1] + chr(ord(prefix[-1]) + 1)}

        def unit(connection: Connection) -> list[str]:
            return [key for (key,) in statement.run(connection, values)]

        keys = await self._db.read(unit, tenant=service, timeout=timeout)
        return keys[:limit], keys[limit - 1] if len(keys) > limit else None

    async def sweep(self) -> int:
        """Takes back the room of a batch of expired values of each service that has any; how many there were."""
        values = {"b_now": self._now()}
        services = await self._db.read(lambda c: list(c.scalars(_STALE_SERVICES, values)))
        swept = 0
        for service in services:
            swept += await self._db.write(partial(self._sweep, service), lock=service)
        return swept

    async def keep_swept(self, every: float = 60.0) -> None:
        """Sweeps for ever, every so many seconds and without a pause while there is much of it. To be run as a task."""
        while True:
            try:
                swept = await self.sweep()
            except InsulaError as error:
                log.warning("expired values were not swept: %s", error.message)
                swept = 0
            except Exception:
                log.exception("expired values were not swept")
                swept = 0
            if swept < SWEEP_BATCH:
                await asyncio.sleep(every)

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _store(self, connection: Connection, held: _Held, value: str, now: int, expires: int | None) -> StateValue:
        service, key = held.service, held.key
        while (after := self._with_room(held, value)) is None:
            if not self._sweep(service, connection):
                raise LimitError(
                    f"the state of {service} is full: {self._max_keys} keys and {self._max_bytes} bytes at most",
                    hint="delete keys, or give them a ttl",
                )
            held = _Held.load(connection, service, key, now)
        there, usage = held.row_value is not None, held.usage
        version = held.row_version + 1 if held.value is not None else max(usage.floor, held.row_version) + 1
        if there:
            _UPDATE.run(
                connection,
                {
                    "b_service": service,
                    "b_key": key,
                    "b_value": value,
                    "b_version": version,
                    "b_modified": now,
                    "b_expires": expires,
                },
            )
        else:
            row = {"value": value, "version": version, "modified": now, "expires": expires}
            _INSERT.run(connection, {"service_id": service, "key": key, **row})
        if after != usage:
            _set_usage(connection, service, after)
        return StateValue(value, version, now)

    def _with_room(self, held: _Held, value: str) -> _Usage | None:
        """The usage once the value is written; None where the quota refuses it. What shrinks is never refused."""
        more = held.row_value is None
        grown = _bytes(held.key, value) - (0 if held.row_value is None else _bytes(held.key, held.row_value))
        after = _Usage(held.usage.keys + more, held.usage.bytes + grown, held.usage.floor)
        full = (more and after.keys > self._max_keys) or (grown > 0 and after.bytes > self._max_bytes)
        return None if full else after

    def _sweep(self, service: str, connection: Connection) -> int:
        usage = _usage(connection, service)
        rows = connection.execute(_STALE, {"b_service": service, "b_now": self._now()}).all()
        if rows:
            for key, value, version in rows:
                usage = usage.without(key, value, version)
                _DELETE.run(connection, {"b_service": service, "b_key": key})
            _set_usage(connection, service, usage)
        return len(rows)


class _Held(NamedTuple):
    """What a service holds under a key, with its usage row taken. `value` is None where the row is absent or expired;
    the `row_` fields are of the row itself, expired or not."""

    service: str
    key: str
    usage: _Usage
    row_value: str | None
    row_version: int
    value: str | None
    expires: int | None

    @classmethod
    def load(cls, connection: Connection, service: str, key: str, now: int) -> _Held:
        usage = _usage(connection, service)
        row = _ROW.row(connection, {"b_service": service, "b_key": key})
        if row is None:
            return cls(service, key, usage, None, 0, None, None)
        value, version, expires = row
        gone = expires is not None and expires <= now
        return cls(service, key, usage, value, version, None if gone else value, None if gone else expires)

    def expect(self, version: int | None) -> None:
        """CallerError `aborted` where the value is not at that version."""
        if version is None or (self.value is not None and self.row_version == version):
            return
        now = "it is absent" if self.value is None else f"it is at {self.row_version}"
        raise _conflict(f"{self.key} is not at version {version}: {now}", "stale_version")


def _usage(connection: Connection, service: str) -> _Usage:
    values = {"b_service": service}
    row = _USAGE.row(connection, values)
    if row is None:
        _NEW_USAGE.run(connection, values)
        row = _USAGE.row(connection, values)
    assert row is not None
    return _Usage(*row)


def _set_usage(connection: Connection, service: str, usage: _Usage) -> None:
    values = {"b_keys": usage.keys, "b_bytes": usage.bytes, "b_floor": usage.floor}
    _SET_USAGE.run(connection, {"b_service": service, **values})


def _bytes(key: str, value: str) -> int:
    return len(key) + len(value.encode())


def _checked_key(key: str) -> str:
    if not KEY.fullmatch(key):
        raise CallerError(
            "a key is 1 to 512 letters, digits and _ - / :", hint="write other characters as one of these"
        )
    return key


def _number(key: str, value: str | None) -> int | float:
    if value is None:
        return 0
    if not _NUMBER.fullmatch(value):
        raise CallerError(f"the value at {key} is not a number", code=Code.FAILED_PRECONDITION)
    number = int(value) if _INTEGER.fullmatch(value) and len(value) <= 20 else float(value)
    if not _in_range(number):
        raise CallerError(f"the number at {key} is out of range", code=Code.OUT_OF_RANGE)
    return number


def _in_range(number: int | float) -> bool:
    return -MAX_INT - 1 <= number <= MAX_INT if isinstance(number, int) else math.isfinite(number)


def _conflict(message: str, reason: str) -> CallerError:
    return CallerError(message, code=Code.ABORTED, reason=reason)
