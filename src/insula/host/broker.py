"""Between the two imports of an okra guest and the capabilities: `run_host_api` and `next`.

One broker a service generation. A request is `{"api", "method", "parameters", "metadata"}`; the broker finds the
operation, hands it the JSON text of the parameters, and wraps the JSON text of what it answers. An operation that answers
at once is answered at once, on the thread that runs the guest; only one that has to wait costs an awaitable. So does a
request above `MAX_INLINE` bytes, which is checked and read in steps, each short enough for the event loop (large.py).

What the guest is told
- API_NOT_FOUND: this server has no such API. POLICY_DENIED: it has, but this service was not granted it.
- METHOD_NOT_FOUND, INVALID_PARAMETERS: the request names no method, or is not such an object.
- LIMIT_EXCEEDED: a request above `MAX_MESSAGE` bytes, or more host calls than the engine lets one entry make.
- RESPONSE_TOO_LARGE: the answer is above `MAX_MESSAGE`.
- INTERNAL_ERROR: the operation failed in a way that is nobody's business but the operator's; the log has it.
- TIMEOUT: what the operation waited for has a deadline of its own, and that has passed. The call's own deadline is never
  told: the engine ends the call there, and an operation that fails because of it leaves the guest waiting for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import CoroutineType
from typing import Any

import msgspec

from insula.calls import ServiceId
from insula.errors import Code, InsulaError, forget_frames
from insula.host.contract import HostError, LargeOperation, Operation
from insula.host.failures import host_error
from insula.host.iterators import next_chunk
from insula.host.large import MAX_WHOLE, check_utf8, read_large
from insula.host.scope import Scope
from insula.shares import Shares

log = logging.getLogger("insula.host")

MAX_MESSAGE = 10 << 20
MAX_INLINE = 256 << 10
#: Bytes of all requests above `MAX_INLINE` that are worked on at once: each service may have as much as is still free.
MAX_IN_HAND = 256 << 20
#: A timeout within so many seconds of the call's deadline counts as that deadline: timers may fire early.
_NEAR = 0.01
#: How long past its deadline (s) a call is left waiting for the engine to end it.
_ENGINE_TIME = 0.5
_MAX_ERROR = 500  # characters of an error's message, which may quote what the guest wrote


class _Request(msgspec.Struct, gc=False):
    api: str
    method: str
    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class _Next(msgspec.Struct, rename="camel", gc=False):
    iterator_id: str


_TOO_MANY = "the large host requests of this service that are worked on are its share of what may be: ask again later"

#: The bytes that each service has of them. Owned by the event loop.
_in_hand: Shares[ServiceId] = Shares(MAX_IN_HAND)

_requests = msgspec.json.Decoder(_Request)
_nexts = msgspec.json.Decoder(_Next)
_failures = msgspec.json.Encoder()


class Broker:
    """`operations` is what this service was granted: api -> method -> operation. `known` are all APIs of the server."""

    def __init__(
        self, service: ServiceId, operations: Mapping[str, Mapping[str, Operation]], known: frozenset[str]
    ) -> None:
        self._service = service
        self._operations = operations
        self._known = known

    def functions(self) -> dict[str, Callable[[Any, bytes], bytes | Awaitable[bytes]]]:
        """The host functions by the names under which a guest imports them."""
        return {"run_host_api": self.run_host_api, "next": self.next}

    def run_host_api(self, scope: Scope, request: bytes) -> bytes | Awaitable[bytes]:
        """Answers one request of a guest."""
        label = "?"
        try:
            _check_size(request)
            if len(request) > MAX_INLINE:
                return self._run_large(scope, request)
            try:
                request.decode()  # all of it: what an operation passes on unread is UTF-8 as well
                asked = _requests.decode(request)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise HostError("INVALID_PARAMETERS", f"the request is not a host API request: {error}") from None
            label = f"{asked.api}.{asked.method}"
            operation = self._find(asked.api, asked.method)
            answer = operation(scope, _object(asked.parameters))
        except Exception as error:
            told = self._failed(label, error)
            return self._after_the_call(scope, told) if _ends_the_call(scope, error) else told
        if isinstance(answer, bytes):
            return self._success(label, answer)
        return self._later(scope, label, _Given(answer))

    async def _run_large(self, scope: Scope, request: bytes) -> bytes:
        size = len(request)
        if not _in_hand.take(self._service, size):
            return self._failed("?", HostError("LIMIT_EXCEEDED", _TOO_MANY))
        try:
            return await self._take_apart(scope, request)
        finally:
            _in_hand.give(self._service, size)

    async def _take_apart(self, scope: Scope, request: bytes) -> bytes:
        label = "?"
        try:
            try:
                await check_utf8(request)
            except UnicodeDecodeError as error:
                raise HostError("INVALID_PARAMETERS", f"the request is not a host API request: {error}") from None
            await asyncio.sleep(0)
            asked = read_large(_requests, request)
            label = f"{asked.api}.{asked.method}"
            operation = self._find(asked.api, asked.method)
            if memoryview(asked.parameters).nbytes > MAX_WHOLE and not isinstance(operation, LargeOperation):
                raise HostError("LIMIT_EXCEEDED", f"{label[:160]} takes parameters of at most {MAX_WHOLE} bytes")
            parameters = _object(asked.parameters)
            del asked, request  # else two copies of a large request would live as long as the operation
            await asyncio.sleep(0)
            answer = operation(scope, parameters)
        except Exception as error:
            told = self._failed(label, error)
            return await self._after_the_call(scope, told) if _ends_the_call(scope, error) else told
        if isinstance(answer, bytes):
            return self._success(label, answer)
        return await self._later(scope, label, _Given(answer))

    def next(self, scope: Scope, request: bytes) -> bytes | Awaitable[bytes]:
        """Gives the next chunk of an iterator of this call."""
        try:
            _check_size(request)
            if len(request) > MAX_INLINE:
                raise HostError("INVALID_PARAMETERS", f"an iterator request has at most {MAX_INLINE} bytes")
            try:
                asked = _nexts.decode(request)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise HostError("INVALID_PARAMETERS", f"the request is not an iterator request: {error}") from None
        except HostError as error:
            return self._failed("next", error)
        return self._next_later(scope, asked.iterator_id)

    def refusal(self, error: InsulaError) -> bytes:
        """What a guest reads where the engine refuses its host call."""
        return self._failed("?", error)

    def _find(self, api: str, method: str) -> Operation:
        methods = self._operations.get(api)
        if methods is None:
            if api in self._known:
                raise HostError(
                    "POLICY_DENIED", f"{api} is not granted to this service: ask for it under host_apis in okra.json"
                )
            raise HostError("API_NOT_FOUND", f"this server has no API {api[:80]!r}")
        operation = methods.get(method)
        if operation is None:
            raise HostError(
                "METHOD_NOT_FOUND", f"{api} has no method {method[:80]!r}; it has {', '.join(sorted(methods))}"
            )
        return operation

    async def _later(self, scope: Scope, label: str, given: _Given) -> bytes:
        try:
            return self._success(label, await given.answer)
        except Exception as error:
            told = self._failed(label, error)
            return await self._after_the_call(scope, told) if _ends_the_call(scope, error) else told

    async def _after_the_call(self, scope: Scope, told: bytes) -> bytes:
        """Waits for the engine to end the call at its deadline, which cancels this."""
        await asyncio.sleep(max(0.0, scope.call.remaining()) + _ENGINE_TIME)
        log.error("%s: a call went on past its deadline", self._service)
        return told

    async def _next_later(self, scope: Scope, iterator_id: str) -> bytes:
        try:
            chunk, more = await next_chunk(scope, iterator_id)
            return self._bounded(b'{"success":true,"data":%b,"hasMore":%b}' % (chunk, b"true" if more else b"false"))
        except Exception as error:
            told = self._failed("next", error)
            return await self._after_the_call(scope, told) if _ends_the_call(scope, error) else told

    def _success(self, label: str, data: bytes) -> bytes:
        try:
            return self._bounded(b'{"success":true,"data":%b}' % data)
        except HostError as error:
            return self._failed(label, error)

    def _bounded(self, response: bytes) -> bytes:
        if len(response) > MAX_MESSAGE:
            raise HostError("RESPONSE_TOO_LARGE", f"the answer is larger than {MAX_MESSAGE} bytes")
        return response

    def _failed(self, label: str, error: Exception) -> bytes:
        if isinstance(error, InsulaError):
            forget_frames(error)
            error = host_error(error)
        if not isinstance(error, HostError):
            log.error("%s: %s failed", self._service, label[:160], exc_info=error)
            forget_frames(error)
            error = HostError("INTERNAL_ERROR", "internal error")
        return _failures.encode(
            {"success": False, "error": {"code": error.code, "message": error.message[:_MAX_ERROR]}}
        )


class _Given:
    """The awaitable of an operation. If the call ends before it was awaited, a coroutine is closed here; Python would
    report it as never awaited."""

    __slots__ = ("answer",)

    def __init__(self, answer: Awaitable[bytes]) -> None:
        self.answer = answer

    def __del__(self) -> None:
        if isinstance(self.answer, CoroutineType):
            self.answer.close()


def _ends_the_call(scope: Scope, error: Exception) -> bool:
    """True if an operation failed by a deadline, and the call's own deadline is not later than `_NEAR` seconds from now."""
    if isinstance(error, InsulaError):
        late = error.code is Code.DEADLINE_EXCEEDED
    else:
        late = isinstance(error, HostError) and error.code == "TIMEOUT"
    return late and scope.call.remaining() <= _NEAR


def _check_size(request: bytes) -> None:
    if len(request) > MAX_MESSAGE:
        raise HostError("LIMIT_EXCEEDED", f"the request is larger than {MAX_MESSAGE} bytes")


def _object(parameters: msgspec.Raw) -> bytes:
    text = bytes(parameters)
    if text.startswith(b"{"):
        return text
    if text == b"null":
        return b"{}"
    raise HostError("INVALID_PARAMETERS", "parameters must be an object")
