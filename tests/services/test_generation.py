"""Generations of a real guest on the real engine: staging, host calls, calls between services, the flip under load."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from insula.calls import Call, Principal, Reply, ServiceId
from insula.errors import CallerError, Code, DeadlineError, GuestError, PackageError, UnavailableError
from insula.host import catalogue
from insula.host.context import ContextCapability
from insula.host.contract import Configured, Operation
from insula.host.grants import Grants
from insula.host.guest_log import GuestLogs
from insula.host.log import capability as log_capability
from insula.host.scope import Home, Scope
from insula.host.services import HostServices
from insula.kinds.catalogue import Kinds
from insula.kinds.okra import OkraKind, deployable
from insula.kinds.staging import Workshop, stage
from insula.packages.deployable import Deployable, ServiceLimits
from insula.packages.package import Package, PackageConfig
from insula.schema.descriptors import to_descriptor_set
from insula.schema.idl import parse_idl
from insula.services.generation import Generation
from insula.services.registry import Registry
from insula.services.states import State
from insula.transcoding.processes import CodecProcesses
from insula.transcoding.service import Codecs
from insula.transcoding.store import MessageStore
from insula.wasm.engine import NativeEngine
from tests.guests import build_c, digest, wat

RELAY = Path(__file__).parent / "relay.c"

IDL = """
type Text { text: String! }
type Invoke { service: String! method: String! input: Text }
type Failure { code: String! message: String! }
type Answer { success: Boolean! error: Failure }
type Request { api: String! method: String! parameters: Invoke }

service NAME {
  "Says it back."
  echo(input: Text): Text
  getEcho(input: Text): Text @auth(roles: ["clerk"])
  relay(input: Request): Answer
  more(input: Text): Text
  trap: Text
  say(input: Text): Text
  watch: [Text] @stream
}
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("code") / "cache"


class Town:
    """Services on one registry, which may call each other."""

    def __init__(self, registry: Registry, engine: NativeEngine, workshop: Workshop) -> None:
        self.registry = registry
        self.engine = engine
        self.workshop = workshop
        self.staged: list[Generation] = []

    @classmethod
    async def found(cls, cache: Path) -> Town:
        registry, engine, logs = Registry(), await NativeEngine.open(cache, threads=8), GuestLogs()
        host = HostServices(logs=logs, env={"shop.A": {"REGION": "eu"}}, find=registry.plan)
        workshop = Workshop(
            engine=engine,
            kinds=Kinds([OkraKind()]),
            catalogue=await asyncio.to_thread(catalogue.load, host),
            grants=Grants(["okra.log", "okra.time", "okra.call"], {"shop.A": ["okra.env"]}),
            logs=logs,
            codecs=Codecs(CodecProcesses(), MessageStore()),
        )
        return cls(registry, engine, workshop)

    async def stage(self, package: Deployable, **more: Any) -> Generation:
        generation = await stage(package, self.workshop, **more)
        self.staged.append(generation)
        return generation

    async def add(self, service: str, **config: Any) -> Generation:
        generation = await self.stage(await package(service, **config))
        self.registry.install(generation)
        return generation

    async def call(
        self, service: str, method: str, payload: dict[str, Any], *, within: float = 10.0, **more: Any
    ) -> Any:
        call = Call(ServiceId.parse(service), method, json.dumps(payload).encode(), time.monotonic() + within, **more)
        answer = self.registry.submit(call)
        reply = answer if isinstance(answer, Reply) else await answer
        return json.loads(reply.payload)

    async def host(self, service: str, api: str, method: str, parameters: Any = None, **more: Any) -> Any:
        """One host call made by a service; its `data`, or its error as (code, message)."""
        request = {"api": api, "method": method, "parameters": parameters or {}}
        answer = await self.call(service, "relay", request, **more)
        return answer["data"] if answer["success"] else (answer["error"]["code"], answer["error"]["message"])


@pytest.fixture
async def town(cache: Path) -> AsyncIterator[Town]:
    town = await Town.found(cache)
    yield town
    for generation in town.staged:
        await generation.close()
    await town.engine.close()


async def package(service: str, wasm: Path | None = None, **config: Any) -> Deployable:
    service_id = ServiceId.parse(service)
    header = f'@okra(namespace: "{service_id.namespace}", version: "{service_id.version}")\n'
    schema = parse_idl(header + IDL.replace("NAME", service_id.name))
    path = await asyncio.to_thread(build_c, RELAY) if wasm is None else wasm
    return deployable(
        Package(
            digest=service.ljust(64, "0"),
            folder=path.parent,
            config=PackageConfig(name=service_id.name, version="1.0.0", **config),
            schema=schema,
            wasm=path,
            wasm_digest=await asyncio.to_thread(digest, path),
            descriptor=to_descriptor_set(schema),
        )
    )


class TestStage:
    async def test_plans(self, town: Town) -> None:
        steps: list[str] = []
        generation = await town.stage(
            await package("shop.A.v1", limits=ServiceLimits(timeout_ms=1500)), step=steps.append
        )
        assert steps == ["checked", "compiled", "ready"]
        assert generation.service.state is State.READY
        plans = generation.by_method
        assert list(plans) == ["echo", "getEcho", "relay", "more", "trap", "say", "watch"]
        assert [name for name, plan in plans.items() if plan.read_only] == ["getEcho"]
        assert [name for name, plan in plans.items() if plan.policy.authenticated] == ["getEcho"]
        echo = plans["echo"]
        assert (echo.timeout, echo.doc) == (1.5, "Says it back.")
        assert echo.json().read_input(b"{}", 1e9) == b'{"text":""}'
        made = echo.binary().read_input(b"\x0a\x02hi", 1e9)
        assert isinstance(made, asyncio.Future)
        assert await made == b'{"text":"hi"}'
        answer = echo.entrance()(Call(generation.id, "echo", b'{"text":"hi"}', time.monotonic() + 10))
        assert isinstance(answer, Reply)
        assert answer.payload == b'{"text":"hi"}'

    async def test_a_streaming_method_is_not_called_once(self, town: Town) -> None:
        await town.add("shop.A.v1")
        with pytest.raises(CallerError, match="streaming") as caught:
            await town.call("shop.A.v1", "watch", {})
        assert caught.value.code is Code.UNIMPLEMENTED

    async def test_limits_of_the_package(self, town: Town) -> None:
        generation = await town.add("shop.A.v1", limits=ServiceLimits(max_instances=4, mailbox=9))
        assert generation.service.instances()["max"] == 4
        assert generation.service.mailbox()["max"] == 9
        single = await town.add("shop.B.v1", limits=ServiceLimits(singleton=True))
        assert single.service.instances()["max"] == 1

    async def test_close_ends_what_runs_and_waits_for_it(self, town: Town) -> None:
        generation = await town.stage(
            await package("shop.A.v1", host_apis=("okra.time",), limits=ServiceLimits(max_instances=1))
        )
        request = b'{"api":"okra.time","method":"sleep","parameters":{"milliseconds":60000}}'
        call = Call(generation.id, "relay", request, time.monotonic() + 60)
        running, waiting = generation.service.submit(call), generation.service.submit(call)
        await generation.close()
        assert (generation.service.in_flight, generation.service.queued) == (0, 0)
        assert not town.engine.programs
        for pending in (running, waiting):
            assert not isinstance(pending, Reply)
            with pytest.raises(UnavailableError):
                await pending

    async def test_close_twice(self, town: Town) -> None:
        generation = await town.stage(await package("shop.A.v1"))
        await asyncio.gather(generation.close(), generation.close())
        await generation.close()
        assert generation.service.state is State.STOPPED
        assert not town.engine.programs


class TestRefusedBeforeTheFlip:
    """Nothing of a package that fails stays in the engine, and the registry has not heard of it."""

    @pytest.fixture(autouse=True)
    async def _nothing_left(self, town: Town) -> AsyncIterator[None]:
        yield
        assert not town.engine.programs
        assert not town.registry.generations

    async def test_more_than_granted(self, town: Town) -> None:
        with pytest.raises(CallerError, match=r"asks for okra\.env") as caught:
            await town.stage(await package("shop.B.v1", host_apis=("okra.log", "okra.env")))
        assert caught.value.http_status == 403
        assert 'allow = {"shop.B" = ["okra.env"]}' in str(caught.value.hint)

    async def test_options_that_a_capability_does_not_have(self, town: Town) -> None:
        with pytest.raises(PackageError, match="'path'"):
            await town.stage(
                await package("shop.A.v1", host_apis=("okra.env",), grants={"okra.env": {"path": ["PATH"]}})
            )

    async def test_not_a_module(self, town: Town, tmp_path: Path) -> None:
        path = tmp_path / "service.wasm"
        path.write_bytes(b"\0asm\1\0\0\0garbage")
        with pytest.raises(PackageError):
            await town.stage(await package("shop.A.v1", path))

    async def test_without_the_exports(self, town: Town) -> None:
        with pytest.raises(PackageError, match="exports no function"):
            await town.stage(
                await package("shop.A.v1", await asyncio.to_thread(wat, '(module (memory (export "memory") 1))'))
            )

    async def test_an_import_that_nobody_offers(self, town: Town) -> None:
        path = await asyncio.to_thread(build_c, RELAY.parent.parent / "guests" / "torture.c")
        with pytest.raises(PackageError, match="host"):
            await town.stage(await package("shop.A.v1", path))

    async def test_one_that_does_not_start(self, town: Town, caplog: pytest.LogCaptureFixture) -> None:
        path = await asyncio.to_thread(build_c, RELAY, "-DTRAP_AT_START")
        with caplog.at_level(logging.INFO), pytest.raises(PackageError, match="does not start") as caught:
            await town.stage(await package("shop.A.v1", path))
        assert caught.value.http_status == 400
        assert "about to fail" in caplog.text, "what it printed is in the log"

    async def test_a_cancelled_stage(self, town: Town) -> None:
        ready = await package("shop.A.v1")
        for turns in range(0, 60, 7):
            task = asyncio.ensure_future(town.stage(ready))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(result, Generation):
                await result.close()
            else:
                assert isinstance(result, asyncio.CancelledError)


class TestGuests:
    async def test_trap_then_the_next_call_is_right(self, town: Town) -> None:
        generation = await town.add("shop.A.v1", limits=ServiceLimits(max_instances=1))
        for _ in range(5):
            with pytest.raises(GuestError):
                await town.call("shop.A.v1", "trap", {})
            assert await town.call("shop.A.v1", "echo", {"text": "well"}) == {"text": "well"}
        assert generation.service.counts.traps == 5
        assert generation.service.state is State.READY

    async def test_what_it_prints(self, town: Town, caplog: pytest.LogCaptureFixture) -> None:
        await town.add("shop.A.v1")
        with caplog.at_level(logging.INFO, "insula.guest"):
            await town.call("shop.A.v1", "say", {"text": "hello\x1b[2J"})
        (record,) = [record for record in caplog.records if record.name == "insula.guest.shop.A.v1"]
        assert record.getMessage() == '{"text": "hello\\\\u001b[2J"}'.replace("\\\\", "\\")

    async def test_host_calls(self, town: Town, caplog: pytest.LogCaptureFixture) -> None:
        await town.add(
            "shop.A.v1",
            host_apis=("okra.log", "okra.time", "okra.env"),
            grants={"okra.env": {"keys": ["REGION", "COLOUR"]}},
        )
        ada = Principal("ada", ("clerk",))
        context = await town.host(
            "shop.A.v1", "okra.context", "get", principal=ada, metadata=(("x-a", "1"), ("x-a", "2"))
        )
        assert context["principal"] == {"subject": "ada", "roles": ["clerk"]}
        assert context["metadata"] == [["x-a", "1"], ["x-a", "2"]]
        assert await town.host("shop.A.v1", "okra.env", "get", {"key": "REGION"}) == "eu"
        assert await town.host("shop.A.v1", "okra.env", "get", {"key": "COLOUR"}) is None
        assert (await town.host("shop.A.v1", "okra.env", "get", {"key": "PATH"}))[0] == "POLICY_DENIED"
        assert abs((await town.host("shop.A.v1", "okra.time", "now"))["timestamp"] / 1000 - time.time()) < 60
        assert await town.host("shop.A.v1", "okra.time", "sleep", {"milliseconds": 1}) is None
        assert (await town.host("shop.A.v1", "okra.call", "invoke"))[0] == "POLICY_DENIED", "it did not ask for it"
        assert (await town.host("shop.A.v1", "okra.moon", "get"))[0] == "API_NOT_FOUND"
        with caplog.at_level(logging.INFO, "insula.guest"):
            await town.host("shop.A.v1", "okra.log", "write", {"level": "warn", "message": "two\nlines"})
        assert ("insula.guest.shop.A.v1", logging.WARNING, "two\\nlines") in caplog.record_tuples

    async def test_metadata_that_it_sets(self, town: Town) -> None:
        generation = await town.add("shop.A.v1")
        request = {"api": "okra.context", "method": "setHeader", "parameters": {"name": "X-Shop", "value": "open"}}
        answer = generation.service.submit(
            Call(generation.id, "relay", json.dumps(request).encode(), time.monotonic() + 10)
        )
        assert isinstance(answer, Reply)
        assert answer.headers == (("x-shop", "open"),)

    async def test_a_sleep_ends_with_the_deadline(self, town: Town) -> None:
        generation = await town.add("shop.A.v1", host_apis=("okra.time",), limits=ServiceLimits(max_instances=1))
        with pytest.raises(DeadlineError):
            await town.host("shop.A.v1", "okra.time", "sleep", {"milliseconds": 60_000}, within=0.05)
        assert await town.call("shop.A.v1", "echo", {"text": "free"}) == {"text": "free"}
        assert generation.service.counts.traps == 1

    async def test_a_cancelled_call_frees_the_guest(self, town: Town) -> None:
        await town.add("shop.A.v1", host_apis=("okra.time",), limits=ServiceLimits(max_instances=1))
        sleeping = asyncio.ensure_future(town.host("shop.A.v1", "okra.time", "sleep", {"milliseconds": 9000}))
        await asyncio.sleep(0)
        sleeping.cancel()
        assert await town.call("shop.A.v1", "echo", {"text": "free"}) == {"text": "free"}


class Watching(Configured):
    """A capability that notes what its instances and calls come to."""

    name = "test.watching"

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.homes: list[Home] = []

    def configure(self, _service: ServiceId, _options: Mapping[str, Any], /) -> Configured:
        return self

    def prepare(self, home: Home) -> None:
        self.homes.append(home)
        number = len(self.homes)
        self.noted.append(f"prepare {number}")
        home.on_end(lambda: self.noted.append(f"home {number}"))

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {"hold": self._hold, "wait": self._wait}

    def _hold(self, scope: Scope, parameters: bytes) -> bytes:
        assert scope.home in self.homes
        scope.on_end(lambda: self.noted.append("call"))
        return parameters

    async def _wait(self, scope: Scope, parameters: bytes) -> bytes:
        self._hold(scope, parameters)
        await asyncio.Event().wait()
        return parameters


class TestScopes:
    """Over real guests: what a capability leaves is undone, however a call and its instance end."""

    @pytest.fixture
    async def watching(self, town: Town) -> Watching:
        watching = Watching()
        known = (log_capability(HostServices()), watching, ContextCapability())
        town.workshop = replace(
            town.workshop, catalogue=catalogue.Catalogue(known), grants=Grants(["okra.log", "test.watching"])
        )
        await town.add("shop.A.v1", host_apis=("test.watching",), limits=ServiceLimits(max_instances=1))
        assert watching.noted == ["prepare 1"]
        return watching

    async def test_an_answer_and_a_close(self, town: Town, watching: Watching) -> None:
        for _ in range(2):
            assert await town.host("shop.A.v1", "test.watching", "hold") == {}
        assert watching.noted == ["prepare 1", "call", "call"]
        await town.staged[0].close()
        assert watching.noted[3:] == ["home 1"]

    async def test_a_trap(self, town: Town, watching: Watching) -> None:
        with pytest.raises(GuestError):
            await town.call("shop.A.v1", "trap", {})
        await town.call("shop.A.v1", "echo", {"text": "well"})
        assert watching.noted == ["prepare 1", "home 1", "prepare 2"]

    @pytest.mark.parametrize("end", ["deadline", "client", "stop"])
    async def test_a_call_that_waits(self, town: Town, watching: Watching, end: str) -> None:
        within = 0.05 if end == "deadline" else 30.0
        running = asyncio.ensure_future(town.host("shop.A.v1", "test.watching", "wait", within=within))
        await asyncio.sleep(0.01)
        if end == "client":
            running.cancel()
        elif end == "stop":
            await town.staged[0].close()
        with pytest.raises((DeadlineError, UnavailableError, asyncio.CancelledError)):
            await running
        await town.staged[0].close()
        assert watching.noted[:3] == ["prepare 1", "call", "home 1"]
        assert watching.noted.count("call") == 1


def invoke(service: str, method: str = "echo", text: str = "hi") -> dict[str, Any]:
    return {"service": service, "method": method, "input": {"text": text}}


class TestCallsBetweenServices:
    async def test_by_id_and_by_name(self, town: Town) -> None:
        await town.add("shop.A.v1", host_apis=("okra.call",))
        await town.add("shop.B.v1")
        for name in ("shop.B.v1", "shop.B"):
            assert await town.host("shop.A.v1", "okra.call", "invoke", invoke(name)) == {"text": "hi"}

    async def test_the_callee_sees_the_caller_s_identity(self, town: Town) -> None:
        await town.add("shop.A.v1", host_apis=("okra.call",))
        await town.add("shop.B.v1")
        asked = invoke("shop.B", "getEcho")
        assert (await town.host("shop.A.v1", "okra.call", "invoke", asked))[0] == "POLICY_DENIED"
        stranger, clerk = Principal("bob", ("cook",)), Principal("ada", ("clerk",))
        assert (await town.host("shop.A.v1", "okra.call", "invoke", asked, principal=stranger))[0] == "POLICY_DENIED"
        assert await town.host("shop.A.v1", "okra.call", "invoke", asked, principal=clerk) == {"text": "hi"}

    async def test_what_goes_wrong_has_a_code(self, town: Town) -> None:
        await town.add("shop.A.v1", host_apis=("okra.call",))
        await town.add("shop.B.v1")
        for parameters, code in (
            (invoke("shop.C"), "NOT_FOUND"),
            (invoke("shop.B", "nothing"), "NOT_FOUND"),
            (invoke("shop.B", "watch"), "NOT_FOUND"),
            (invoke("shop.B", "trap"), "INTERNAL_ERROR"),
            ({"service": "shop.B", "method": "echo", "input": {"text": 7}}, "INVALID_PARAMETERS"),
            ({"service": "shop.B"}, "INVALID_PARAMETERS"),
            (invoke("shop.A"), "LIMIT_EXCEEDED"),
        ):
            answer = await town.host("shop.A.v1", "okra.call", "invoke", parameters)
            assert answer[0] == code, (parameters, answer)

    async def test_a_cycle_through_another(self, town: Town) -> None:
        """A calls B's relay, which calls A: A refuses, B says so, and A hands that on."""
        a = await town.add("shop.A.v1", host_apis=("okra.call",), limits=ServiceLimits(singleton=True))
        await town.add("shop.B.v1", host_apis=("okra.call",))
        back = {"api": "okra.call", "method": "invoke", "parameters": invoke("shop.A")}
        answer = await town.host(
            "shop.A.v1", "okra.call", "invoke", {"service": "shop.B", "method": "relay", "input": back}
        )
        assert answer["success"] is False
        assert answer["error"]["code"] == "LIMIT_EXCEEDED"
        assert "shop.A.v1 -> shop.B.v1 -> shop.A.v1" in answer["error"]["message"]
        assert a.service.counts.errors == {Code.RESOURCE_EXHAUSTED: 1}
        assert a.service.in_flight == 0

    async def test_the_deadline_goes_along(self, town: Town) -> None:
        await town.add("shop.A.v1", host_apis=("okra.call",))
        b = await town.add("shop.B.v1", host_apis=("okra.time",), limits=ServiceLimits(max_instances=1))
        busy = asyncio.ensure_future(town.host("shop.B.v1", "okra.time", "sleep", {"milliseconds": 9000}, within=5.0))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineError):
            await town.host("shop.A.v1", "okra.call", "invoke", invoke("shop.B"), within=0.1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert b.service.queued == 0, "the call that nobody waits for has left the mailbox"
        busy.cancel()


class TestFlip:
    async def test_overrides_under_load_lose_no_call(self, town: Town) -> None:
        """Calls by name, directly and through another service, while the callee is replaced again and again."""
        await town.add("shop.A.v1", host_apis=("okra.call",))
        await town.add("shop.B.v1")
        over = asyncio.Event()
        answered = asyncio.Semaphore(0)

        async def direct() -> None:
            while not over.is_set():
                assert await town.call("shop.B.v1", "echo", {"text": "x"}) == {"text": "x"}
                answered.release()
                await asyncio.sleep(0)  # a reply that is there at once leaves no room for anybody else

        async def through() -> None:
            while not over.is_set():
                assert await town.host("shop.A.v1", "okra.call", "invoke", invoke("shop.B")) == {"text": "hi"}
                answered.release()

        callers = [asyncio.ensure_future(each()) for each in (direct, direct, direct, through, through)]
        for number in range(8):
            generation = await town.stage(replace(await package("shop.B.v1"), digest=f"{number:064}"))
            replaced = town.registry.install(generation)
            assert replaced is not None
            assert await replaced.service.drain(10.0)
            await replaced.close()
            for _ in range(20):
                await answered.acquire()
        over.set()
        await asyncio.gather(*callers)
        assert len(town.engine.programs) == 2
