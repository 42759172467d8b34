"""`okra.call` against plans that are there and not there; between real guests it is tested with the generations."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest

from insula.calls import Call, Pending, Principal, Reply, ServiceId
from insula.errors import CallerError, Code, InsulaError
from insula.host.call import CallCapability, inherited
from insula.host.failures import HOST_CODES, host_error
from insula.plans import Codec, Plan, Policy
from insula.schema.bounds import DEFAULT_BOUNDS, Bounds
from insula.schema.idl import parse_idl
from insula.transcoding.processes import CodecProcesses
from insula.transcoding.service import Codecs
from insula.transcoding.store import MessageStore
from tests.host.conftest import Host, scope

SCHEMA = parse_idl(
    """
@okra(namespace: "shop", version: "v1")
type Item { name: String! }
service Stock { put(input: Item): Int  take(input: Item): Item  all: Int }
"""
)
OPEN = Policy()
STOCK = ServiceId("shop", "Stock", "v1")


def no_binary() -> Codec:
    raise AssertionError("services call each other in JSON")


class Stock:
    """A service that keeps what it is called with."""

    def __init__(
        self,
        policy: Policy = OPEN,
        timeout: float = 3.0,
        max_body: int = 1000,
        bounds: Bounds = DEFAULT_BOUNDS,
        processes: CodecProcesses | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self.answer: Reply | Pending | Exception = Reply(b'{"name":"nail"}', (("x-a", "1"),))
        codecs = Codecs(processes or CodecProcesses(), MessageStore()).of(str(STOCK), "digest", SCHEMA, bounds)
        self.plans = {
            method.name: Plan(
                STOCK,
                method.name,
                False,
                policy,
                timeout,
                max_body,
                partial(codecs.json, method),
                no_binary,
                lambda: self.submit,
            )
            for method in SCHEMA.service.methods
        }

    def submit(self, call: Call) -> Reply | Pending:
        self.calls.append(call)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def find(self, service: str, method: str) -> Plan:
        if service not in ("shop.Stock", "shop.Stock.v1") or method not in self.plans:
            raise CallerError("not here", code=Code.UNIMPLEMENTED)
        return self.plans[method]

    def host(self, **call: Any) -> Host:
        return Host(CallCapability(self.find), of=scope(**call))


def invoke(method: str = "take", **more: Any) -> dict[str, Any]:
    return {"service": "shop.Stock", "method": method, "input": {"name": "nail"}, **more}


async def test_what_is_inherited() -> None:
    stock = Stock()
    host = stock.host(
        within=100.0,
        principal=Principal("ada"),
        metadata=(("x-a", "1"), ("authorization", "Bearer t"), ("content-type", "x"), ("x-a", "2"), ("cookie", "c")),
        request_id="r",
        traceparent="t",
        idempotency_key="k",
        path=("shop.Web.v1",),
    )
    assert await host.ask("okra.call", "invoke", invoke()) == {"name": "nail"}
    (call,) = stock.calls
    assert call.service == STOCK
    assert call.payload == b'{"name":"nail"}'
    assert call.metadata == (("x-a", "1"), ("x-a", "2"))
    assert (call.principal, call.request_id, call.traceparent) == (Principal("ada"), "r", "t")
    assert call.idempotency_key == ""
    assert call.path == ("shop.Web.v1", "shop.Orders.v1")
    assert call.remaining() <= 3.0, "no longer than the callee's own time"
    assert host.scope.headers == []


async def test_the_deadline_is_the_caller_s_where_that_is_shorter() -> None:
    stock = Stock()
    host = stock.host(within=1.0)
    await host.ask("okra.call", "invoke", invoke())
    assert stock.calls[0].deadline == host.scope.call.deadline


async def test_later_and_cancelled() -> None:
    stock = Stock()
    pending: Pending = asyncio.get_running_loop().create_future()
    stock.answer = pending
    asking = asyncio.ensure_future(stock.host().ask("okra.call", "invoke", invoke()))
    await asyncio.sleep(0)
    pending.set_result(Reply(b'{"name":"screw"}'))
    assert await asking == {"name": "screw"}
    stock.answer = pending = asyncio.get_running_loop().create_future()
    asking = asyncio.ensure_future(stock.host().ask("okra.call", "invoke", invoke()))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert pending.cancelled(), "the callee learns that nobody waits"


async def test_scalars_and_no_input() -> None:
    stock = Stock()
    stock.answer = Reply(b"7")
    assert await stock.host().ask("okra.call", "invoke", invoke("put")) == {"response": 7}
    assert await stock.host().ask("okra.call", "invoke", {"service": "shop.Stock", "method": "all"}) == {"response": 7}
    assert stock.calls[-1].payload == b"{}"


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({}, "INVALID_PARAMETERS"),
        (invoke(service=3), "INVALID_PARAMETERS"),
        (invoke(service="shop.Else"), "NOT_FOUND"),
        (invoke("nothing"), "NOT_FOUND"),
        (invoke(input={"name": 1}), "INVALID_PARAMETERS"),
        (invoke(input=[]), "INVALID_PARAMETERS"),
        (invoke(input={"name": "x" * 1000}), "LIMIT_EXCEEDED"),
    ],
)
async def test_refused_before_the_callee_is_called(parameters: dict[str, Any], code: str) -> None:
    stock = Stock()
    assert await stock.host().ask("okra.call", "invoke", parameters) == code
    assert not stock.calls


async def test_values_and_sizes_are_bounded_both_ways() -> None:
    many = {"name": "x", "more": [0] * 100}
    stock = Stock(bounds=Bounds(output_bytes=500, values=50))
    assert await stock.host().ask("okra.call", "invoke", invoke(input=many)) == "LIMIT_EXCEEDED"
    assert not stock.calls
    for answer in (json.dumps(many).encode(), b'{"name":"%b"}' % (b"x" * 500)):
        stock.answer = Reply(answer)
        assert await stock.host().ask("okra.call", "invoke", invoke()) == "LIMIT_EXCEEDED"


async def test_a_large_input_and_output_are_read_and_written_elsewhere() -> None:
    processes = CodecProcesses(at_once=1)
    try:
        large = {"name": "x" * 300_000}
        stock = Stock(max_body=1 << 20, processes=processes)
        stock.answer = Reply(json.dumps(large).encode())
        assert await stock.host().ask("okra.call", "invoke", invoke(input=large)) == large
        assert json.loads(stock.calls[0].payload) == large
        asking = asyncio.ensure_future(stock.host(within=0.0).ask("okra.call", "invoke", invoke(input=large)))
        assert await asking == "TIMEOUT"
        assert len(stock.calls) == 1
    finally:
        await processes.close()


async def test_an_answer_of_the_wrong_shape() -> None:
    stock = Stock()
    stock.answer = Reply(b"[1]")
    assert await stock.host().ask("okra.call", "invoke", invoke()) == "INTERNAL_ERROR"


@pytest.mark.parametrize("code", list(Code))
async def test_every_code_of_the_callee_has_one_for_the_guest(code: Code) -> None:
    stock = Stock()
    stock.answer = InsulaError("no", code=code)
    expected = HOST_CODES.get(code, "INTERNAL_ERROR")
    assert await stock.host().ask("okra.call", "invoke", invoke()) == expected == host_error(stock.answer).code


@pytest.mark.parametrize(
    ("policy", "principal", "allowed"),
    [
        (Policy(), None, True),
        (Policy(authenticated=True), None, False),
        (Policy(authenticated=True), Principal("ada"), True),
        (Policy(True, ("admin",)), Principal("ada", ("clerk",)), False),
        (Policy(True, ("admin", "clerk")), Principal("ada", ("clerk",)), True),
        (Policy(False, ("admin",)), None, False),
    ],
)
async def test_the_policy_of_the_callee(policy: Policy, principal: Principal | None, allowed: bool) -> None:
    stock = Stock(policy)
    answer = await stock.host(principal=principal).ask("okra.call", "invoke", invoke())
    assert answer == ({"name": "nail"} if allowed else "POLICY_DENIED")
    assert len(stock.calls) == allowed


def test_metadata_that_stays_behind() -> None:
    kept = (("x-tenant", "1"), ("accept-language", "de"), ("baggage", "a=b"))
    dropped = ("cookie", "authorization", "content-length", "connect-timeout-ms", "grpc-timeout", "host", "te")
    assert inherited((*kept, *((name, "x") for name in dropped))) == kept
