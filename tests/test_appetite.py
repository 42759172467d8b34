"""A whole server and guests, or packages, that take as much of everything as they can get."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import wasmtime

from insula import examples
from insula.calls import ServiceId
from insula.host import catalogue
from insula.host.contract import Configured, Operation
from insula.host.iterators import MAX_ITERATORS, open_iterator
from insula.host.scope import Scope
from tests.packing import HOSTILE, hostile, pack
from tests.running import Live, running
from tests.wasm.test_modules import section, slow_module

GREETER = examples.find("greeter")
GREEDY = """
@okra(namespace: "test", version: "{version}")
service Greedy {{
  memory(input: Amount): Taken
  lines(input: Amount): Taken
  line(input: Amount): Taken
  binary(input: Amount): Taken
  asks(input: Amount): Taken
  counts(input: Amount): Taken
  opens(input: Amount): Taken
  opensAndTraps(input: Amount): Taken
  opensAndLoops(input: Amount): Taken
}}
type Amount {{ number: Long! }}
type Taken {{ number: Long! refused: String! }}
"""
RELAY = """
@okra(namespace: "test", version: "v1")
service Relay { relay(input: Request): Answer }
type Parameters { name: String value: String }
type Request { api: String! method: String! parameters: Parameters }
type Failure { code: String! message: String! }
type Answer { success: Boolean! error: Failure }
"""
MB = 1 << 20


def greedy(
    folder: Path, version: str = "v1", apis: tuple[str, ...] = ("okra.time", "okra.state"), **limits: int
) -> Path:
    from tests.guests import build_c

    wasm = build_c("greedy.c").read_bytes()
    whole = {"memory_mb": 256, "timeout_ms": 60_000, **limits}
    target = folder / f"greedy-{version}.okra.pkg"
    return pack(target, GREEDY.format(version=version), wasm, host_apis=list(apis), limits=whole)


def roomy(folder: Path, pages: int) -> Path:
    """A package whose memory is large from the start."""
    import wasmtime

    wasm = bytes(
        wasmtime.wat2wasm(
            f'(module (memory (export "memory") {pages}) (func (export "allocate") (param i32) (result i32) i32.const 8)'
            '(func (export "deallocate") (param i32))'
            '(func (export "handle_request") (param i32 i32 i32 i32) (result i64) i64.const 0))'
        )
    )
    return pack(folder / "roomy.okra.pkg", RELAY, wasm, limits={"memory_mb": 240})


async def test_a_package_may_not_ask_for_more_memory_than_the_operator_gives(tmp_path: Path) -> None:
    flags = {"packages.max_memory_mb": 200, "limits.guest_memory_mb": 300}
    async with running(tmp_path, flags) as live:
        for memory, least, hint in ((201, 0, "max_memory_mb = 201"), (81, 3, "guest_memory_mb = 304")):
            refused = await live.deploy(greedy(tmp_path, memory_mb=memory, min_instances=least))
            assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied"), refused.text
            assert hint in refused.json()["hint"]
        for memory, least in ((200, 0), (80, 3)):
            taken = await live.deploy(greedy(tmp_path, memory_mb=memory, min_instances=least), override="true")
            assert taken.status_code == 200, taken.text
    async with running(tmp_path, {**flags, "limits.guest_memory_mb": 304}) as live:
        taken = await live.deploy(greedy(tmp_path, memory_mb=81, min_instances=3), override="true")
        assert taken.status_code == 200, "what the hint said to write is enough"


async def test_guests_have_no_more_memory_together_than_is_theirs(tmp_path: Path) -> None:
    async with running(tmp_path, {"limits.guest_memory_mb": 300}, deploy=["greeter"]) as live:
        for version in ("v1", "v2"):
            assert (await live.deploy(greedy(tmp_path, version, min_instances=1, memory_mb=240))).status_code == 200
        first, second = ("/test.Greedy.v1/memory", "/test.Greedy.v2/memory")
        assert (await live.call(first, {"number": "180"})).json() == {"number": "180", "refused": ""}
        for _ in range(3):
            refused = await live.call(second, {"number": "180"})
            assert refused.json()["refused"] == "memory", refused.text  # it was told inside the guest, which goes on
            assert int(refused.json()["number"]) < 110
            assert (await live.call(second, {"number": "0"})).json() == {"number": "0", "refused": ""}
            assert (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 200
        assert (await live.call(first, {"number": "0"})).json() == {"number": "0", "refused": ""}
        full = await live.deploy(roomy(tmp_path, 2048))
        assert (full.status_code, full.json()["reason"]) == (429, "guest_memory"), full.text
        assert 180 * MB < await held(live) < 300 * MB


async def test_idle_instances_make_room_for_those_that_work(tmp_path: Path) -> None:
    async with running(tmp_path, {"limits.guest_memory_mb": 300}) as live:
        assert (await live.deploy(greedy(tmp_path, memory_mb=240))).status_code == 200
        assert (await live.call("/test.Greedy/memory", {"number": "200"})).json()["number"] == "200"
        shown = (await live.admin.get("/api/v1/packages/test.Greedy.v1")).json()
        assert shown["instances"]["idle"] == 1
        deployed = await live.deploy(roomy(tmp_path, 2048))
        assert deployed.status_code == 200, deployed.text
        shown = (await live.admin.get("/api/v1/packages/test.Greedy.v1")).json()
        assert shown["instances"] == {"idle": 0, "busy": 0, "starting": 0, "max": 8}
        assert (await live.call("/test.Greedy/memory", {"number": "100"})).json()["number"] == "100"


async def test_all_memory_is_given_back_however_guests_end(tmp_path: Path) -> None:
    """Traps, exits, deadlines, callers that leave, replaced services: what is counted never drifts, for what drifted would
    in time refuse every start."""
    flags = {"limits.guest_memory_mb": 400, "limits.worker_threads": 2, "limits.drain_timeout_ms": 200}
    async with running(tmp_path, flags) as live:
        packages = [
            hostile(tmp_path / "hostile.okra.pkg", limits={"timeout_ms": 200, "memory_mb": 64, "max_instances": 4}),
            greedy(tmp_path, timeout_ms=200, memory_mb=128),
        ]
        for package in packages:
            assert (await live.deploy(package)).status_code == 200

        async def call(number: int) -> None:
            method = ("loop", "bomb", "trap", "quit", "overflow", "echo")[number % 6]
            path, body = f"/test.Hostile/{method}", {"text": "x"}
            if number % 3 == 1:
                path, body = "/test.Greedy/memory", {"number": str((1, 40, 100, 200)[number % 4])}
            calling = asyncio.create_task(live.call(path, body))
            if number % 7 == 0:
                await live.call("/test.Hostile/echo", {"text": "y"})
                calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)

        for round_number in range(6):
            await asyncio.gather(
                *(call(number) for number in range(12)), live.deploy(packages[round_number % 2], override="true")
            )
        assert await held(live) > 0
        for name in ("Hostile", "Greedy"):
            assert (await live.admin.delete(f"/api/v1/packages/test.{name}.v1")).status_code == 204
        while await held(live):  # the last of a replaced service is drained yet
            pass


async def held(live: Live) -> float:
    page = (await live.public.get("/metrics")).text
    [line] = [line for line in page.splitlines() if line.startswith("insula_guest_memory_bytes")]
    return float(line.split()[1])


# Output


@pytest.mark.parametrize("kind", ["lines", "line", "binary"])
async def test_what_a_guest_prints_costs_neither_memory_nor_disk(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Many lines, one without an end, and bytes that are no text. None of it is in the way of others."""
    most = 16 * MB
    async with running(tmp_path, deploy=["greeter"]) as live:
        assert (await live.deploy(greedy(tmp_path))).status_code == 200
        assert (await live.call(f"/test.Greedy/{kind}", {"number": "1"})).status_code == 200
        before = psutil.Process().memory_info().rss
        with caplog.at_level(logging.INFO, logger="insula.guest"):
            printing = asyncio.create_task(live.call(f"/test.Greedy/{kind}", {"number": str(most)}))
            others = 0
            while not printing.done():
                others += (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 200
        taken = printing.result().json()
        assert (int(taken["number"]) >= most, taken["refused"], others > 0) == (True, "", True)
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("insula.guest")]
        assert sum(map(len, lines)) < most / 4
        assert all(line.isprintable() for line in lines)
        page = (await live.public.get("/metrics")).text
        [dropped] = [
            line for line in page.splitlines() if line.startswith('insula_guest_log_dropped_total{service="test')
        ]
        if kind != "line":
            assert float(dropped.split()[1]) > 1000
        caplog.clear()
        assert psutil.Process().memory_info().rss - before < 64 * MB


# What a guest asks of the host


async def test_one_call_has_a_quota_of_host_calls_and_the_next_has_its_own(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        assert (await live.deploy(greedy(tmp_path, max_instances=1))).status_code == 200
        for number, taken, refused in ((10_000, 10_000, ""), (10_001, 10_000, "LIMIT_EXCEEDED"), (10_000, 10_000, "")):
            answer = await live.call("/test.Greedy/asks", {"number": str(number)})
            assert answer.json() == {"number": str(taken), "refused": refused}


class Endless(Configured):
    """A capability whose answers never end, and how many of them are open."""

    name = "test.endless"

    def __init__(self) -> None:
        self.opened = self.closed = 0

    def configure(self, _service: ServiceId, _options: Mapping[str, Any], /) -> Configured:
        return self

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {"open": self._open}

    def _open(self, scope: Scope, _parameters: bytes) -> bytes:
        self.opened += 1
        return b'"%b"' % open_iterator(scope, self).encode()

    async def read(self) -> bytes | None:
        return b"[]"

    def close(self) -> None:
        self.closed += 1


async def test_what_a_call_leaves_open_is_closed_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless()
    monkeypatch.setattr(catalogue, "BUILT_IN", (*catalogue.BUILT_IN, lambda _: endless))
    async with running(tmp_path, {"grants.allow": {"*": ["test.endless"]}}) as live:
        package = greedy(tmp_path, apis=("okra.time", "test.endless"), timeout_ms=2000, max_instances=1)
        assert (await live.deploy(package)).status_code == 200
        opened = 0
        for number, method, code in (
            *((100, "opens", 200), (150, "opens", 200), (100, "opensAndTraps", 500), (100, "opensAndLoops", 504)),
            *((1, "opens", 200), (100, "opens", 200)),
        ):
            answer = await live.call(f"/test.Greedy/{method}", {"number": str(number)})
            assert answer.status_code == code, answer.text
            if code == 200:
                refused = "LIMIT_EXCEEDED" if number > MAX_ITERATORS else ""
                assert answer.json() == {"number": str(min(number, MAX_ITERATORS)), "refused": refused}
            opened += min(number, MAX_ITERATORS + 1)  # one above the bound is made, and closed at once
            assert (endless.opened, endless.closed) == (opened, opened), method


BAD_PAIRS = [
    ("x-a", "b\r\nset-cookie: a=b"),
    ("x-a", "b\nc"),
    ("x-a", "b\0c"),
    ("x-a", "naïve"),
    ("x-a", "\u560d\u560aset-cookie: a"),  # whose low bytes are a line end
    ("x-a", " b"),
    ("x-a", "v" * 4097),
    ("x-a\r\nx-b", "c"),
    ("x a", "b"),
    ("x-ä", "b"),
    ("", "b"),
    (":status", "200"),
    ("n" * 129, "b"),
    ("Set-Cookie", "a=b"),
    ("CONTENT-LENGTH", "0"),
    ("Transfer-Encoding", "chunked"),
    ("connection", "close"),
    ("trailer-x", "y"),
    ("access-control-allow-origin", "*"),
]


async def test_no_header_of_a_guest_tears_an_answer(tmp_path: Path) -> None:
    from tests.guests import build_c

    relay = build_c(Path(__file__).parent / "services" / "relay.c").read_bytes()
    async with running(tmp_path) as live:
        assert (await live.deploy(pack(tmp_path / "relay.okra.pkg", RELAY, relay))).status_code == 200
        plain = dict((await _set(live, "setHeader", "x-good", "b")).headers)
        assert plain.pop("x-good") == "b"
        for method in ("setHeader", "setTrailer"):
            for name, value in BAD_PAIRS:
                answer = await _set(live, method, name, value)
                assert (answer.status_code, answer.json()["success"]) == (200, False), (name, value)
                assert answer.headers.keys() == plain.keys(), (name, value)
        assert (await _set(live, "setTrailer", "x-end", "c")).headers["trailer-x-end"] == "c"


async def _set(live: Live, method: str, name: str, value: str) -> Any:
    request = {"api": "okra.context", "method": method, "parameters": {"name": name, "value": value}}
    return await live.call("/test.Relay/relay", request)


async def test_the_log_of_the_database_stays_small_under_writes(tmp_path: Path) -> None:
    """Each write is a transaction of its own and synced; the pages that it changes come round again."""
    async with running(tmp_path) as live:
        assert (await live.deploy(greedy(tmp_path))).status_code == 200
        answers = await asyncio.gather(*(live.call("/test.Greedy/counts", {"number": "500"}) for _ in range(6)))
        assert [answer.json() for answer in answers] == [{"number": "500", "refused": ""}] * 6
        sizes = {file.name: file.stat().st_size for file in live.server.settings.server.data_dir.glob("insula.db*")}
        assert max(sizes.values()) < 8 * MB, sizes


# Deploys


async def test_what_is_replaced_again_and_again_leaves_nothing_behind(tmp_path: Path) -> None:
    """Packages of which none is kept for a rollback any more, and modules that nobody has open, are swept."""
    assert GREETER is not None
    packages = [hostile(tmp_path / f"{number}.okra.pkg", limits={"timeout_ms": 4000 + number}) for number in range(40)]
    async with running(tmp_path) as live:
        process = psutil.Process()
        kept: list[tuple[int, int, int]] = []
        for _ in range(2):
            for package in packages:
                assert (await live.deploy(package, override="true")).status_code == 200
                assert (await live.call("/test.Hostile/echo", {"text": "x"})).status_code == 200
            await live.admin.delete("/api/v1/packages/test.Nothing.v1")
            data = live.server.settings.server.data_dir
            kept.append((len(os.listdir(data / "depot")), len(os.listdir(data / "modules")), process.num_threads()))
        shown = (await live.admin.get("/api/v1/packages/test.Hostile.v1")).json()
        for depot, modules, _ in kept:
            assert depot <= len(shown["previous"]) + 5  # the present one, incoming, and what the next sweep takes
            assert modules == 2
        assert shown["instances"]["busy"] == 0
        assert kept[1][2] <= kept[0][2] + 2


async def test_code_that_was_replaced_is_gone_at_once(tmp_path: Path) -> None:
    """Its descriptor and its mapping go with its last call: no garbage collection is waited for."""
    packages = [pack(tmp_path / f"{n}.okra.pkg", TINY, bytes(wasmtime.wat2wasm(tiny(n)))) for n in range(3)]

    def kept() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text().splitlines()
        return len(os.listdir("/proc/self/fd")), sum(str(tmp_path) in line and ".cwasm" in line for line in maps)

    async with running(tmp_path, {"limits.drain_timeout_ms": 200}) as live:
        gc.collect()
        gc.disable()
        try:
            found = []
            for number in range(50):
                assert (await live.deploy(packages[number % 3], override="true")).status_code == 200
                assert (await live.call("/test.Tiny/get")).json() == {"response": number % 3}
                found.append(kept())
            first, last = found[3], found[-1]
            assert last[1] <= first[1]
            assert last[0] <= first[0] + 1
            assert (await live.admin.delete("/api/v1/packages/test.Tiny.v1")).status_code == 204
            while kept()[1]:  # the last instance is freed in a thread
                await live.public.get("/health")
        finally:
            gc.enable()


TINY = """
@okra(namespace: "test", version: "v1")
service Tiny { get: Int! }
"""


def tiny(number: int) -> str:
    return f"""(module (memory (export "memory") 1) (data (i32.const 16) "{number}")
      (func (export "allocate") (param i32) (result i32) (i32.const 1024)) (func (export "deallocate") (param i32))
      (func (export "handle_request") (param i32 i32 i32 i32) (result i64) (i64.const 0x1000000001)))"""


def compiles() -> bool:
    """Whether this process has a child that compiles."""
    with suppress(psutil.NoSuchProcess):
        return any("insula.wasm.compile" in one.cmdline() for one in psutil.Process().children())
    return False


async def test_a_module_that_takes_long_to_compile_holds_no_other_deploy_up(tmp_path: Path) -> None:
    assert GREETER is not None
    ballast = section(0, b"\x01x" + os.urandom(500_000))  # a package may not pack too tightly; and it is a new module
    wasm = slow_module(6000, 400).read_bytes()
    slow = pack(tmp_path / "slow.okra.pkg", HOSTILE.format(version="v9"), wasm[:8] + ballast + wasm[8:])
    async with running(tmp_path) as live:
        compiling = asyncio.create_task(live.deploy(slow))
        while not await asyncio.to_thread(compiles):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for package in (GREETER, hostile(tmp_path / "v1.okra.pkg"), hostile(tmp_path / "v2.okra.pkg", version="v2")):
            assert (await live.deploy(package)).status_code == 200
        again = await live.deploy(slow)
        assert not compiling.done()
        assert (again.status_code, again.json()["code"]) == (409, "aborted"), again.text
        assert (await live.call("/test.Hostile/echo", {"text": "x"})).status_code == 200
        assert (await compiling).json()["code"] == "invalid_argument"  # it has none of the exports
