"""`okra.state`: durable values of a service, with versions, conditions, expiry and counters.

What may be asked is checked here, on the thread of the guest; the work is the repository's, on the event loop. The engine
ends it with the call, at the call's deadline; the database's own limit comes a little later, so that it never comes first.
Values pass through as the JSON text that the guest wrote.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec

from insula.calls import ServiceId
from insula.errors import InsulaError
from insula.host.contract import HostError, Operation, Scope
from insula.host.failures import host_error
from insula.host.options import no_options
from insula.host.parameters import Numbers, read
from insula.storage.state import MAX_LIST, MAX_TTL, MAX_VALUE, StateRepository, StateValue

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

    def configure(self, service: ServiceId, options: Mapping[str, Any]) -> Mapping[str, Operation]:
        """The operations in the scope of the service. It has no options: PackageError for any."""
        no_options(self.name, options)
        scope = _Bound(self._state, self._numbers, str(service))
        return {
            "get": _operation(_Get, scope.get),
            "set": _operation(_Set, scope.set),
            "delete": _operation(_Delete, scope.delete),
            "list": _operation(_List, scope.list),
            "increment": _operation(_Increment, scope.increment),
        }


class _Bound:
    """The methods of the API for one service; `remaining` is the time that the database has."""

    def __init__(self, state: StateRepository, numbers: Numbers, service: str) -> None:
        self._state = state
        self._numbers = numbers
        self._service = service

    async def get(self, asked: _Get, remaining: float) -> Any:
        value = await self._state.get(self._service, asked.key, timeout=remaining)
        return None if value is None else _shown(value)

    async def set(self, asked: _Set, remaining: float) -> Any:
        options = asked.options or _SetOptions()
        value = bytes(asked.value)
        if len(value) <= MAX_VALUE:
            await self._numbers.check(value, self._service)
        return _shown(
            await self._state.set(
                self._service,
                asked.key,
                value.decode(),
                ttl=options.ttl,
                if_version=options.if_version,
                if_absent=bool(options.if_absent),
                timeout=remaining,
            )
        )

    async def delete(self, asked: _Delete, remaining: float) -> Any:
        version = asked.options.if_version if asked.options else None
        await self._state.delete(self._service, asked.key, if_version=version, timeout=remaining)

    async def list(self, asked: _List, remaining: float) -> Any:
        options = asked.options or _ListOptions()
        keys, cursor = await self._state.list_keys(
            self._service, asked.prefix, limit=options.limit or 100, cursor=options.cursor, timeout=remaining
        )
        return _Keys(keys, cursor)

    async def increment(self, asked: _Increment, remaining: float) -> Any:
        delta = 1 if asked.delta is None else asked.delta
        return await self._state.increment(self._service, asked.key, delta, timeout=remaining)


def _operation(shape: type[S], method: Callable[[S, float], Awaitable[Any]]) -> Operation:
    decoder = msgspec.json.Decoder(shape)

    def operation(scope: Scope, parameters: bytes) -> Awaitable[bytes]:
        asked = read(decoder, parameters)
        try:
            parameters.decode()  # a value that is passed through as it is has not been looked at otherwise
        except UnicodeDecodeError:
            raise HostError("INVALID_PARAMETERS", "the parameters are not UTF-8") from None
        return _run(method, asked, scope)

    return operation


async def _run(method: Callable[[S, float], Awaitable[Any]], asked: S, scope: Scope) -> bytes:
    try:
        return _encode(await method(asked, scope.call.remaining() + SLACK))
    except InsulaError as error:
        raise host_error(error) from None


def _shown(value: StateValue) -> _Value:
    written = datetime.fromtimestamp(value.modified / 1000, UTC)
    stamp = written.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _Value(msgspec.Raw(value.data.encode()), value.version, stamp)


_encode = msgspec.json.encode
