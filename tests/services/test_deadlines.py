"""One place decides that a call is late, and that is the engine: no host function tells a guest of its call's deadline.

Each case runs many calls whose end and whose deadline are meant for the same moment, one millisecond before it and after.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from insula.calls import Call, Reply, ServiceId
from insula.errors import Code, InsulaError
from insula.host import catalogue
from insula.host.grants import Grants
from insula.host.services import HostServices
from insula.kinds.catalogue import Kinds
from insula.kinds.contract import Granted
from insula.kinds.okra import OkraKind, deployable
from insula.packages.deployable import Deployable, ServiceLimits
from insula.packages.package import Package, PackageConfig
from insula.schema.descriptors import to_descriptor_set
from insula.schema.idl import parse_idl
from insula.storage.database import Database
from insula.storage.guest_state import StateRepository
from insula.wasm.contract import Guest, HostImport, Module
from tests.guests import build_c, digest
from tests.packing import pack
from tests.running import Live, running
from tests.services.test_generation import RELAY, Town, cache  # noqa: F401

CALLS = 3000
AT_ONCE = 50

IDL = """
@okra(namespace: "shop", version: "v1")

type Request { api: String! method: String! parameters: Parameters! }
type Parameters { milliseconds: Int service: String method: String input: Request key: String value: String }
type Failure { code: String! message: String! }
type Answer { success: Boolean! error: Failure }

service NAME { relay(input: Request): Answer }
"""


def sleep(milliseconds: int) -> dict[str, Any]:
    return {"api": "okra.time", "method": "sleep", "parameters": {"milliseconds": milliseconds}}


def call(milliseconds: int) -> dict[str, Any]:
    invoke = {"service": "shop.B", "method": "relay", "input": sleep(milliseconds)}
    return {"api": "okra.call", "method": "invoke", "parameters": invoke}


def write(milliseconds: int) -> dict[str, Any]:
    return {"api": "okra.state", "method": "set", "parameters": {"key": f"k{milliseconds}", "value": "v"}}


KINDS = pytest.mark.parametrize("make", [sleep, call, write])
APIS = ("okra.time", "okra.call", "okra.state")


class Watching(OkraKind):
    """Notes what guests are given of the host: how often TIMEOUT, and in which calls anything after their deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.told = 0
        self.late: set[str] = set()

    def imports(self, deployable: Deployable, module: Module, host: Granted) -> Sequence[HostImport]:
        def watched(each: HostImport) -> HostImport:
            def give(guest: Guest, answer: bytes) -> tuple[int, ...]:
                self.told += b'"TIMEOUT"' in answer
                call: Call = guest.scope.call  # type: ignore[attr-defined]
                if time.monotonic() >= call.deadline:
                    self.late.add(call.request_id)
                return each.give(guest, answer)

            return replace(each, give=give)

        return [watched(each) for each in super().imports(deployable, module, host)]


async def package(name: str) -> Deployable:
    path = await asyncio.to_thread(build_c, RELAY)
    schema = parse_idl(IDL.replace("NAME", name))
    return deployable(
        Package(
            digest=name.ljust(64, "0"),
            folder=path.parent,
            config=PackageConfig(
                name=name, version="1.0.0", host_apis=APIS, limits=ServiceLimits(max_instances=AT_ONCE, mailbox=AT_ONCE)
            ),
            schema=schema,
            wasm=path,
            wasm_digest=await asyncio.to_thread(digest, path),
            descriptor=to_descriptor_set(schema),
        )
    )


class Slow(Database):
    """A database whose writer takes its time now and then, so that a write's end and a deadline meet."""

    async def write(self, unit: Any, **more: Any) -> Any:
        pause = random.choice((0.0, 0.002, 0.005))

        def slow(connection: Any) -> Any:
            time.sleep(pause)
            return unit(connection)

        return await super().write(slow, **more)


@pytest.fixture
async def town(cache: Path, tmp_path: Path) -> AsyncIterator[Town]:  # noqa: F811
    town = await Town.found(cache)
    database = await Slow.open(tmp_path / "state.db")
    host = HostServices(find=town.registry.plan, state=StateRepository(database))
    found = await asyncio.to_thread(catalogue.load, host)
    town.workshop = replace(town.workshop, catalogue=found, grants=Grants(APIS, {}), kinds=Kinds([Watching()]))
    for name in "AB":
        town.registry.install(await town.stage(await package(name)))
    yield town
    for generation in town.staged:
        await generation.close()
    await town.engine.close()
    await database.close()


@KINDS
async def test_no_guest_is_told_of_its_own_deadline(town: Town, make: Any) -> None:
    service = ServiceId("shop", "A", "v1")
    ends: list[object] = []
    answered: set[str] = set()

    async def caller(numbers: range) -> None:
        for number in numbers:
            milliseconds = 2 + number % 13
            request = json.dumps(make(milliseconds)).encode()
            deadline = time.monotonic() + (milliseconds + number % 3 - 1) / 1000
            try:
                answer = town.registry.submit(Call(service, "relay", request, deadline, request_id=str(number)))
                reply = answer if isinstance(answer, Reply) else await answer
                answered.add(str(number))
                ends.append(json.loads(reply.payload)["success"])
            except InsulaError as error:
                ends.append(error.code)

    await asyncio.gather(*(caller(range(first, CALLS, AT_ONCE)) for first in range(AT_ONCE)))
    (watching,) = town.workshop.kinds
    assert isinstance(watching, Watching)
    assert watching.told == 0
    assert not watching.late & answered, "no answer of a guest that went on past its deadline"
    assert set(ends) <= {True, Code.DEADLINE_EXCEEDED}
    assert len(ends) == CALLS
    assert Code.DEADLINE_EXCEEDED in ends, "or this has tried nothing"


async def test_a_callee_s_own_time_is_told(town: Town) -> None:
    town.workshop = replace(town.workshop, max_timeout=0.05)
    town.registry.install(await town.stage(await package("B")))
    request = json.dumps(call(1000)).encode()
    answer = town.registry.submit(Call(ServiceId("shop", "A", "v1"), "relay", request, time.monotonic() + 10))
    reply = answer if isinstance(answer, Reply) else await answer
    assert json.loads(reply.payload)["error"]["code"] == "TIMEOUT"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    wasm = (await asyncio.to_thread(build_c, RELAY)).read_bytes()
    async with running(tmp_path, {"grants.default": list(APIS)}) as live:
        for name in "AB":
            file = pack(tmp_path / f"{name}.okra.pkg", IDL.replace("NAME", name), wasm, host_apis=list(APIS))
            answer = await live.deploy(file)
            assert answer.status_code == 200, answer.text
        yield live


@KINDS
async def test_no_client_reads_200_of_a_guest_that_ran_out_of_time(live: Live, make: Any) -> None:
    answers: list[tuple[int, str]] = []

    async def caller(numbers: range) -> None:
        for number in numbers:
            milliseconds = 4 + number % 13
            timeout = {"connect-timeout-ms": str(milliseconds + number % 3 - 1)}
            answer = await live.call("/shop.A/relay", make(milliseconds), **timeout)
            answers.append((answer.status_code, answer.text))

    await asyncio.gather(*(caller(range(first, 600, 8)) for first in range(8)))
    assert {status for status, _ in answers} <= {200, 504}
    assert [text for status, text in answers if status == 200 and "TIMEOUT" in text] == []
