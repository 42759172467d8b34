from __future__ import annotations

import asyncio
import gc
import inspect
import json
from collections.abc import Awaitable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.calls import ServiceId
from insula.errors import CallerError, Code, DeadlineError, LimitError
from insula.host.broker import MAX_MESSAGE, Broker
from insula.host.contract import Configured, HostError, Operation
from insula.host.iterators import open_iterator
from insula.host.scope import Scope
from tests.host.conftest import ID, Host, scope


class Probe(Configured):
    """A capability that shows the ways in which an operation can end."""

    name = "test.probe"

    def configure(self, _service: ServiceId, _options: Mapping[str, Any], /) -> Configured:
        return self

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {
            "echo": lambda scope, parameters: parameters,
            "later": lambda scope, parameters: self.later(parameters),
            "refuse": self.refuse,
            "wrong": self.wrong,
            "wrongLater": lambda scope, parameters: self.wrong_later(),
            "large": lambda scope, parameters: b'"%b"' % (b"x" * MAX_MESSAGE),
            "taken": self.taken,
            "quote": self.quote,
        }

    async def later(self, parameters: bytes) -> bytes:
        return parameters

    def refuse(self, scope: Scope, parameters: bytes) -> bytes:
        raise HostError("CONFLICT", 'it is "taken"')

    def wrong(self, scope: Scope, parameters: bytes) -> bytes:
        raise KeyError("the password")

    async def wrong_later(self) -> bytes:
        raise KeyError("the password")

    def quote(self, scope: Scope, parameters: bytes) -> bytes:
        raise HostError("INVALID_PARAMETERS", "x" * 1_000_000)

    def taken(self, scope: Scope, parameters: bytes) -> bytes | Awaitable[bytes]:
        raise CallerError("gone", code=Code.NOT_FOUND)


@pytest.fixture
def host() -> Host:
    return Host(Probe())


async def test_now_and_later(host: Host) -> None:
    assert await host.ask("test.probe", "echo", {"a": [1]}) == {"a": [1]}
    assert await host.ask("test.probe", "later", {"a": [1]}) == {"a": [1]}
    answer = host.broker.run_host_api(host.scope, b'{"api":"test.probe","method":"echo","parameters":{}}')
    assert answer == b'{"success":true,"data":{}}', "what can be answered at once is"


@pytest.mark.parametrize("missing", ["", ',"parameters":null', ',"metadata":{"a":"b"},"more":1'])
async def test_parameters_may_be_missing(host: Host, missing: str) -> None:
    assert await host.raw(b'{"api":"test.probe","method":"echo"%b}' % missing.encode()) == {"success": True, "data": {}}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"", "INVALID_PARAMETERS"),
        (b"null", "INVALID_PARAMETERS"),
        (b"{}", "INVALID_PARAMETERS"),
        (b'{"api":"test.probe"}', "INVALID_PARAMETERS"),
        (b'{"api":1,"method":"echo"}', "INVALID_PARAMETERS"),
        (b'{"api":"\xff","method":"echo"}', "INVALID_PARAMETERS"),
        (b'{"api":"test.probe","method":"echo","parameters":{"a":"\xff"}}', "INVALID_PARAMETERS"),
        (b'{"api":"test.probe","method":"quote","parameters":{}}', "INVALID_PARAMETERS"),
        (b'{"api":"test.probe","method":"echo","parameters":[]}', "INVALID_PARAMETERS"),
        (b'{"api":"test.probe","method":"echo","parameters":"{}"}', "INVALID_PARAMETERS"),
        (b'{"api":"test.probe","method":"echo","parameters":' + b"[" * 100_000, "INVALID_PARAMETERS"),
        (b'{"api":"test.moon","method":"echo"}', "API_NOT_FOUND"),
        (b'{"api":"okra.sql","method":"query"}', "POLICY_DENIED"),
        (b'{"api":"test.probe","method":"fly"}', "METHOD_NOT_FOUND"),
        (b'{"api":"test.probe","method":"refuse"}', "CONFLICT"),
        (b'{"api":"test.probe","method":"large"}', "RESPONSE_TOO_LARGE"),
        (b'{"api":"test.probe","method":"taken"}', "NOT_FOUND"),
        (b"x" * (MAX_MESSAGE + 1), "LIMIT_EXCEEDED"),
    ],
)
async def test_refusals(host: Host, request_: bytes, code: str) -> None:
    answer = await host.raw(request_)
    assert answer["success"] is False
    assert answer["error"]["code"] == code
    assert len(answer["error"]["message"]) <= 500


@pytest.mark.parametrize("method", ["wrong", "wrongLater"])
async def test_a_mistake_of_the_host_is_logged_and_not_told(
    host: Host, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await host.raw(b'{"api":"test.probe","method":"%b"}' % method.encode())
    assert answer == {"success": False, "error": {"code": "INTERNAL_ERROR", "message": "internal error"}}
    assert "the password" in caplog.text


def test_what_the_engine_refuses_is_told_as_any_other_refusal(host: Host) -> None:
    told = json.loads(host.broker.refusal(LimitError("one call may make 10 host calls")))
    assert told == {
        "success": False,
        "error": {"code": "LIMIT_EXCEEDED", "message": "one call may make 10 host calls"},
    }


async def test_next_of_what_is_not_there(host: Host) -> None:
    assert (await host.next("it-0"))["error"]["code"] == "ITERATOR_NOT_FOUND"
    answer = host.broker.next(host.scope, b"[]")
    assert isinstance(answer, bytes)
    assert json.loads(answer)["error"]["code"] == "INVALID_PARAMETERS"


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(request: bytes) -> None:
    broker = Broker(ID, {}, frozenset())
    for function in (broker.run_host_api, broker.next):
        answer = function(scope(), request)
        assert isinstance(answer, bytes)
        assert json.loads(answer)["success"] is False


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("begun", [False, True])
async def test_what_is_given_up_before_its_first_step_warns_of_nothing(
    host: Host, begun: bool, recwarn: pytest.WarningsRecorder
) -> None:
    for ends in (True, False):
        answer = host.broker.run_host_api(host.scope, b'{"api":"test.probe","method":"later"}')
        assert inspect.iscoroutine(answer)
        if not begun:
            answer.close()
        elif ends:
            task = asyncio.create_task(answer)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
        else:
            assert json.loads(await answer)["success"]
        del answer
        gc.collect()
    assert recwarn.list == []


class Late(Configured):
    """A capability whose operations, and whose iterators, run into a deadline."""

    name = "test.late"

    def configure(self, _service: ServiceId, _options: Mapping[str, Any], /) -> Configured:
        return self

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {"now": self.now, "later": lambda scope, parameters: self.later(), "open": self.open}

    def now(self, scope: Scope, parameters: bytes) -> bytes:
        raise HostError("TIMEOUT", "too late")

    async def later(self) -> bytes:
        raise DeadlineError("too late")

    def open(self, scope: Scope, parameters: bytes) -> bytes:
        return b'"%b"' % open_iterator(scope, self).encode()

    async def read(self) -> bytes:
        raise DeadlineError("too late")

    def close(self) -> None: ...


class TestDeadlines:
    """`_NEAR` its deadline a call is left to the engine, which ends it; a timeout long before it is told."""

    @pytest.mark.parametrize("method", ["now", "later", "next"])
    async def test_a_timeout_of_the_callee_is_told(self, method: str) -> None:
        assert await self.ask(Host(Late(), of=scope(within=5.0)), method) == "TIMEOUT"

    @pytest.mark.parametrize("method", ["now", "later", "next"])
    @pytest.mark.parametrize("within", [0.005, 0.0, -0.1])
    async def test_the_call_s_own_is_the_engine_s(self, method: str, within: float) -> None:
        waiting = asyncio.create_task(self.ask(Host(Late(), of=scope(within=within)), method))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()  # as the engine does

    async def ask(self, host: Host, method: str) -> Any:
        if method != "next":
            return await host.ask("test.late", method)
        answer = host.broker.next(host.scope, json.dumps({"iteratorId": await host.ask("test.late", "open")}).encode())
        assert inspect.isawaitable(answer)
        return json.loads(await answer)["error"]["code"]
