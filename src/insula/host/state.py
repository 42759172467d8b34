"""`okra.state`: durable values of a service, with versions, conditions, expiry and counters.

What may be asked is checked here, on the thread of the guest; the work is the repository's, on the event loop. The engine
ends it with the call, at the call's deadline; the database's own limit comes a little later, so that it never comes first.
Values pass through as the JSON text that the guest wrote.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from insula.calls import ServiceId
from insula.errors import InsulaError
from insula.host.contract import Configured, HostError, Operation
from insula.host.failures import host_error
from insula.host.options import no_options
from insula.host.parameters import Numbers, read
from insula.host.scope import Scope
from insula.storage.guest_state import MAX_LIST, MAX_TTL, MAX_VALUE, StateRepository, StateValue
from insula.times import rfc3339

#: Seconds past the call's deadline that the database is given.
SLACK = 0.25

S = TypeVar("S", bound=msgspec.Struct)


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Parameters with no key but their own."""


class _Get(_Strict, frozen=True):
    key: str


class _SetOptions(_Strict, frozen=True):
    ttl: Annotated[float, msgspec.Meta(gt=0, le=MAX_TTL)] | None = None
    if_version: int | None = None
    if_absent: bool | None = None


class _Set(_Strict, frozen=True):
    key: str
    value: msgspec.Raw
    options: _SetOptions | None = None


class _DeleteOptions(_Strict, frozen=True):
    if_version: int | None = None


class _Delete(_Strict, frozen=True):
    key: str
    options: _DeleteOptions | None = None


class _ListOptions(_Strict, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIST)] | None = None
    cursor: str | None = None


class _List(_Strict, frozen=True):
    prefix: str
    options: _ListOptions | None = None


class _Increment(_Strict, frozen=True):
    key: str
    delta: int | float | None = None


class _Value(msgspec.Struct, frozen=True, rename="camel"):
    data: msgspec.Raw
    version: int
    last_modified: str


class _Keys(msgspec.Struct, frozen=True, omit_defaults=True):
    keys: list[str]
    cursor: str | None = None


class StateCapability:
    """The capability over a repository."""

    name = "okra.state"

    def __init__(self, repository: StateRepository) -> None:
        self._state = repository
        self._numbers = Numbers()

    def configure(self, service: ServiceId, options: Mapping[str, Any]) -> ServiceState:
        """The values of the service. It has no options: PackageError for any."""
        no_options(self.name, options)
        return ServiceState(self._state, self._numbers, str(service))


class ServiceState(Configured):
    """The values of one service. The database has the time that the scope has left, and a little more."""

    def __init__(self, state: StateRepository, numbers: Numbers, service: str) -> None:
        self._state = state
        self._numbers = numbers
        self._service = service

    async def get(self, scope: Scope, key: str) -> StateValue | None:
        """The value of a key, None where there is none."""
        return await self._state.get(self._service, key, timeout=_time(scope))

    async def set(
        self,
        scope: Scope,
        key: str,
        value: bytes,
        *,
        ttl: float | None = None,
        if_version: int | None = None,
        if_absent: bool = False,
    ) -> StateValue:
        """Writes a value, JSON text, for `ttl` seconds or for good. CONFLICT where it has another version than
        `if_version`, or is there and is to be absent."""
        if len(value) <= MAX_VALUE:
            await self._numbers.check(value, self._service)
        return await self._state.set(
            self._service,
            key,
            value.decode(),
            ttl=ttl,
            if_version=if_version,
            if_absent=if_absent,
            timeout=_time(scope),
        )

    async def delete(self, scope: Scope, key: str, *, if_version: int | None = None) -> None:
        """Removes a value; CONFLICT as of `set`."""
        await self._state.delete(self._service, key, if_version=if_version, timeout=_time(scope))

    async def keys(
        self, scope: Scope, prefix: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[str], str | None]:
        """The keys with a prefix, and where to go on."""
        return await self._state.list_keys(self._service, prefix, limit=limit, cursor=cursor, timeout=_time(scope))

    async def increment(self, scope: Scope, key: str, delta: float = 1) -> int | float:
        """Adds to a number, and gives the sum."""
        return await self._state.increment(self._service, key, delta, timeout=_time(scope))

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {
            "get": _operation(_Get, self._get),
            "set": _operation(_Set, self._set),
            "delete": _operation(_Delete, self._delete),
            "list": _operation(_List, self._list),
            "increment": _operation(_Increment, self._increment),
        }

    async def _get(self, scope: Scope, asked: _Get) -> Any:
        value = await self.get(scope, asked.key)
        return None if value is None else _shown(value)

    async def _set(self, scope: Scope, asked: _Set) -> Any:
        options = asked.options or _SetOptions()
        return _shown(
            await self.set(
                scope,
                asked.key,
                bytes(asked.value),
                ttl=options.ttl,
                if_version=options.if_version,
                if_absent=bool(options.if_absent),
            )
        )

    async def _delete(self, scope: Scope, asked: _Delete) -> Any:
        await self.delete(scope, asked.key, if_version=asked.options.if_version if asked.options else None)

    async def _list(self, scope: Scope, asked: _List) -> Any:
        options = asked.options or _ListOptions()
        return _Keys(*await self.keys(scope, asked.prefix, limit=options.limit or 100, cursor=options.cursor))

    async def _increment(self, scope: Scope, asked: _Increment) -> Any:
        return await self.increment(scope, asked.key, 1 if asked.delta is None else asked.delta)


def _time(scope: Scope) -> float:
    return scope.call.remaining() + SLACK


def _operation(shape: type[S], method: Callable[[Scope, S], Awaitable[Any]]) -> Operation:
    decoder = msgspec.json.Decoder(shape)

    def operation(scope: Scope, parameters: bytes) -> Awaitable[bytes]:
        asked = read(decoder, parameters)
        try:
            parameters.decode()  # a value that is passed through as it is has not been looked at otherwise
        except UnicodeDecodeError:
            raise HostError("INVALID_PARAMETERS", "the parameters are not UTF-8") from None
        return _run(method, asked, scope)

    return operation


async def _run(method: Callable[[Scope, S], Awaitable[Any]], asked: S, scope: Scope) -> bytes:
    try:
        return _encode(await method(scope, asked))
    except InsulaError as error:
        raise host_error(error) from None


def _shown(value: StateValue) -> _Value:
    stamp = rfc3339(value.modified / 1000)
    return _Value(msgspec.Raw(value.data.encode()), value.version, stamp)


_encode = msgspec.json.encode
