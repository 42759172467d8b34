"""A service with a real schema and real codecs behind a real listener; the service itself is written here, in Python."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest
import uvloop

from insula.calls import Call, Headers, Pending, Reply, ServiceId
from insula.edge.admission import Identified
from insula.edge.app import Application
from insula.edge.lane import Lane
from insula.edge.limits import ConnectionLimits
from insula.edge.listener import Listener, bind
from insula.edge.routes import RouteTable
from insula.errors import InsulaError
from insula.gateways.connect import ConnectGateway
from insula.gateways.contract import Offer
from insula.gateways.joined import Gateways
from insula.gateways.missing import missing_route
from insula.offload import Offload
from insula.plans import Plan
from insula.published import Published
from insula.schema.bounds import Bounds
from insula.schema.idl import parse_idl
from insula.schema.model import Schema
from insula.schema.policy import is_read_only, policy_of
from insula.transcoding.processes import CodecProcesses
from insula.transcoding.service import Codecs
from insula.transcoding.store import MessageStore

IDL = """
@okra(namespace: "shop", version: "v1")
service Echo {
  echo(input: Thing!): Thing!
  getThing(input: Thing!): Thing!
  listAll: [String!]
  secret(input: Thing!): Thing! @auth
  ping
}
type Thing { name: String! count: Int size: Long data: Bytes tags: [String!] }
"""
SCHEMA = parse_idl(IDL)
MAX_BODY = 100_000
MAX_VALUES = 30_000
BOUNDS = Bounds(MAX_BODY, 1 << 20, MAX_VALUES)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}


class Echo:
    """Answers what it is told to: its input, later, an error, with metadata."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.headers: Headers = ()
        self.trailers: Headers = ()
        self.error: InsulaError | None = None
        self.answer: bytes | None = None
        self.later = False
        self.pending: list[Pending] = []
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()

    def submit(self, call: Call) -> Reply | Pending:
        self.calls.append(call)
        if self.later:
            pending: Pending = asyncio.get_running_loop().create_future()
            pending.add_done_callback(lambda pending: self.cancelled.set() if pending.cancelled() else None)
            self.pending.append(pending)
            self.asked.set()
            return pending
        if self.error is not None:
            raise self.error
        return self.reply(call)

    def reply(self, call: Call) -> Reply:
        answer = self.answer
        if answer is None:
            answer = b'["a","b"]' if call.method == "listAll" else b"" if call.method == "ping" else call.payload
        return Reply(answer, self.headers, self.trailers)


def published(schema: Schema | None = None) -> Published:
    """What a service with this schema publishes."""
    return Published(ServiceId("shop", "Echo", "v1"), schema=schema)


class Shop:
    """The listener, the service and a client."""

    def __init__(self, listener: Listener, app: Application, echo: Echo, http: httpx.AsyncClient) -> None:
        self.listener = listener
        self.app = app
        self.echo = echo
        self.http = http
        self.url = listener.url

    async def post(
        self, body: Any, method: str = "echo", headers: dict[str, str] | None = None, path: str = "/shop.Echo/"
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.http.post(
            path + method, content=content, headers={"content-type": "application/json", **(headers or {})}
        )


def plans(echo: Echo, codecs: Codecs) -> list[Plan]:
    of_service = codecs.of("shop.Echo.v1", "digest", SCHEMA, BOUNDS)
    return [
        Plan(
            ServiceId("shop", "Echo", "v1"),
            method.name,
            is_read_only(method),
            policy_of(method),
            5.0,
            MAX_BODY,
            partial(of_service.json, method),
            partial(of_service.binary, method),
            lambda: echo.submit,
        )
        for method in SCHEMA.service.methods
    ]


@asynccontextmanager
async def open_shop(lane: bool = True) -> AsyncIterator[Shop]:
    echo = Echo()
    offload = Offload()
    gateway = ConnectGateway(offload)
    processes = CodecProcesses(at_once=1)
    codecs = Codecs(processes, MessageStore())
    older = [replace(plan, service=ServiceId("shop", "Echo", "v0")) for plan in plans(echo, codecs)]
    app = Application(RouteTable(()), missing=missing_route(), rules=(Identified(),))
    app.offload = offload
    newest = Offer(published(SCHEMA), tuple(plans(echo, codecs)), latest=True)
    Gateways(app, (gateway,)).follow((newest, Offer(published(SCHEMA), tuple(older), latest=False)))()
    listener = Listener(app, bind("127.0.0.1", 0), ConnectionLimits(linger=0.2), lane=Lane(app) if lane else None)
    await listener.start()
    async with httpx.AsyncClient(base_url=listener.url, trust_env=False, verify=False) as http:
        yield Shop(listener, app, echo, http)
    await listener.stop(0.0)
    offload.close()
    await processes.close()


@pytest.fixture(params=["ordinary", "lane"])
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    """The shop over each road of the edge."""
    async with open_shop(request.param == "lane") as opened:
        yield opened
