"""The main job from end to end: real packages, real guests, real clients, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from insula import examples
from insula.server import Server
from insula.settings import load
from tests.packages.web import body, serving
from tests.packing import hostile
from tests.running import Live, Process, process, running

GREETER = examples.find("greeter")
assert GREETER is not None


@pytest_asyncio.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with running(tmp_path) as live:
        yield live


# Deploy, call, list, undeploy


async def test_a_package_is_deployed_called_listed_and_undeployed(live: Live) -> None:
    assert GREETER is not None
    answer = await live.admin.post("/api/v1/packages/deploy", json={"source": GREETER.as_uri()})
    assert answer.status_code == 200, answer.text
    deployed = answer.json()
    assert deployed["service_id"] == "examples.Greeter.v1"
    assert deployed["status"] == "deployed"
    assert "/examples.Greeter/greet" in deployed["endpoints"]
    assert [step["name"] for step in deployed["steps"]] == ["read", "checked", "compiled", "ready", "written", "live"]

    for path in (
        "/examples.Greeter/greet",
        "/examples.Greeter.v1/greet",
        "/connect/examples.Greeter/greet",
        "/connect/examples.Greeter.v1/greet",
    ):
        answer = await live.call(path, {"name": "World"})
        assert (answer.status_code, answer.json()["message"]) == (200, "Hello, World!"), path

    listed = (await live.admin.get("/api/v1/packages")).json()["services"]
    assert [(entry["id"], entry["source"], entry["state"]) for entry in listed] == [
        ("examples.Greeter.v1", GREETER.as_uri(), "ready")
    ]
    shown = (await live.admin.get("/api/v1/packages/examples.Greeter.v1")).json()
    assert shown["latest"] is True
    assert shown["instances"]["idle"] == 1

    assert (await live.admin.delete("/api/v1/packages/examples.Greeter.v1")).status_code == 204
    gone = await live.call("/examples.Greeter/greet", {"name": "World"})
    assert (gone.status_code, gone.json()["code"]) == (404, "unimplemented")
    assert (await live.admin.get("/api/v1/packages")).json() == {"services": []}
    assert (await live.admin.delete("/api/v1/packages/examples.Greeter.v1")).status_code == 404


async def test_the_second_deploy_of_an_id_needs_override(live: Live) -> None:
    assert GREETER is not None
    assert (await live.deploy(GREETER)).status_code == 200
    again = await live.deploy(GREETER)
    assert again.status_code == 409
    assert again.json()["code"] == "already_exists"
    assert "override" in again.json()["hint"]
    assert (await live.deploy(GREETER, override="true")).status_code == 200


async def test_a_plan_changes_nothing(live: Live, tmp_path: Path) -> None:
    assert GREETER is not None
    planned = (await live.deploy(GREETER, plan="true")).json()
    assert planned["status"] == "planned"
    assert (await live.admin.get("/api/v1/packages")).json() == {"services": []}
    assert (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 404


async def test_two_deploys_of_one_id_at_once_leave_one_whole(live: Live) -> None:
    assert GREETER is not None
    answers = await asyncio.gather(*(live.deploy(GREETER) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"already_exists", "aborted"}
    assert (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 200


async def test_a_deploy_while_undeploying_is_refused_or_comes_after(live: Live) -> None:
    assert GREETER is not None
    await live.deploy(GREETER)
    for _ in range(5):
        gone, back = await asyncio.gather(
            live.admin.delete("/api/v1/packages/examples.Greeter.v1"), live.deploy(GREETER, override="true")
        )
        listed = (await live.admin.get("/api/v1/packages")).json()["services"]
        works = (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code
        assert gone.status_code in (204, 409)
        assert back.status_code in (200, 409)
        assert works == (200 if listed else 404)
        await live.deploy(GREETER, override="true")


async def test_a_service_without_its_version_is_named_with_it(live: Live) -> None:
    assert GREETER is not None
    await live.deploy(GREETER)
    answer = await live.admin.get("/api/v1/packages/examples.Greeter")
    assert (answer.status_code, answer.json()["hint"]) == (400, "write examples.Greeter.v1")


async def test_a_wrong_method_is_told_the_right_one(live: Live) -> None:
    assert GREETER is not None
    await live.deploy(GREETER)
    answer = await live.public.get("/examples.Greeter/greet")
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
    assert "it takes POST; with curl, -d '{}' makes a POST" in answer.json()["message"]


async def test_both_ports_show_a_browser_what_is_deployed(live: Live) -> None:
    assert GREETER is not None
    await live.deploy(GREETER)
    browser = {"accept": "text/html,application/xhtml+xml"}
    public, admin = await live.public.get("/", headers=browser), await live.admin.get("/", headers=browser)
    assert "<code>/examples.Greeter/greet</code>" in public.text
    assert "<code>examples.Greeter.v1</code>" in admin.text
    for answer in (public, admin):
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_doctor_knows_a_server_that_runs_here(tmp_path: Path) -> None:
    with process(tmp_path) as server:
        flags = [port.rpartition(":")[2] for port in (server.url, server.admin_url)]
        environ = {"INSULA_SERVER__PORT": flags[0], "INSULA_SERVER__ADMIN_PORT": flags[1]}
        done = subprocess.run(
            [sys.executable, "-m", "insula", "doctor", "--json"],
            cwd=tmp_path,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
        )
    states = {one["name"]: one["state"] for one in json.loads(done.stdout)["findings"]}
    assert (states["public port"], states["admin port"]) == ("ok", "ok")


# Versions


async def test_versions_stand_side_by_side_and_the_latest_is_the_last_deployed(live: Live, tmp_path: Path) -> None:
    first, second = (hostile(tmp_path / f"{version}.okra.pkg", version=version) for version in ("v1", "v2"))
    await live.deploy(first)
    await live.deploy(second)
    shown = {
        version: (await live.admin.get(f"/api/v1/packages/test.Hostile.{version}")).json()["latest"]
        for version in ("v1", "v2")
    }
    assert shown == {"v1": False, "v2": True}
    await live.deploy(first, override="true")  # an override keeps its place
    assert (await live.admin.get("/api/v1/packages/test.Hostile.v2")).json()["latest"] is True
    await live.admin.delete("/api/v1/packages/test.Hostile.v2")
    assert (await live.call("/test.Hostile/echo", {"text": "still here"})).json()["text"] == "still here"


async def test_endpoints_lead_to_the_service_that_lists_them(live: Live, tmp_path: Path) -> None:
    """Without a version where it is the latest, else with it; a deploy, a plan, a rollback and a listing say the same."""
    first, second, other = (
        hostile(tmp_path / f"{name}.okra.pkg", version=name[:2], limits={"timeout_ms": timeout})
        for name, timeout in (("v1", 5000), ("v2", 5000), ("v1-other", 4000))
    )
    short, long = "/test.Hostile/echo", "/test.Hostile.v1/echo"
    assert (await live.deploy(first, plan="true")).json()["endpoints"][0] == short
    assert (await live.deploy(first)).json()["endpoints"][0] == short
    assert (await live.deploy(second)).json()["endpoints"][0] == short
    for query in ({"plan": "true"}, {"override": "true"}):
        assert (await live.deploy(other, **query)).json()["endpoints"][0] == long
    shown = (await live.admin.get("/api/v1/packages/test.Hostile.v1")).json()
    assert shown["endpoints"] == [method["endpoint"] for method in shown["methods"]]
    back = (await live.admin.post("/api/v1/packages/test.Hostile.v1/rollback")).json()
    assert back["endpoints"] == shown["endpoints"]
    assert [step["name"] for step in back["steps"]] == ["read", "checked", "compiled", "ready", "written", "live"]
    listed = (await live.public.get("/")).json()["services"]
    assert {short, long} < set(listed)
    assert len(listed) == len(set(listed))
    for path in (short, long):
        assert (await live.call(path, {"text": "x"})).status_code == 200


async def test_a_query_of_a_source_is_told_to_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert GREETER is not None
    flags = {"sources.allow_http": True, "sources.allow_private": True}
    with serving() as web:
        for query in ("?X-Amz-Signature=hunter2", "?X-Amz-Signature=hunter3"):
            web.answers[f"/greeter.okra.pkg{query}"] = body(GREETER.read_bytes())
        async with running(tmp_path, flags) as live:
            source = web.url("/greeter.okra.pkg")
            with caplog.at_level(logging.DEBUG, logger="insula"):
                deployed = await live.admin.post(
                    "/api/v1/packages/deploy", json={"source": f"{source}?X-Amz-Signature=hunter2"}
                )
                missing = await live.admin.post(
                    "/api/v1/packages/deploy", json={"source": f"{source}.gone?X-Amz-Signature=hunter2"}
                )
            assert (deployed.json()["source"], missing.status_code) == (source, 404)
            shown = await live.admin.get("/api/v1/packages/examples.Greeter.v1")
            listed = await live.admin.get("/api/v1/packages")
            said = [deployed.text, missing.text, shown.text, listed.text, caplog.text]
    assert not [text for text in said if "hunter2" in text]


async def test_plain_http_is_no_source_unless_the_operator_says_so(live: Live) -> None:
    answer = await live.admin.post("/api/v1/packages/deploy", json={"source": "http://example.com/x.okra.pkg"})
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert "allow_http" in answer.json()["hint"]


async def test_what_the_command_line_names_is_deployed_whatever_the_sources_may_be(tmp_path: Path) -> None:
    assert GREETER is not None
    flags = {"server.admin_host": "0.0.0.0", "admin.token": "a-token-of-the-test"}
    async with running(tmp_path, flags, deploy=["greeter"]) as live:
        assert (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 200
        live.admin.headers["authorization"] = "Bearer a-token-of-the-test"
        answer = await live.admin.post("/api/v1/packages/deploy", json={"source": GREETER.as_uri()})
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


async def test_lines_dropped_and_instances_closed_are_counted(live: Live) -> None:
    assert GREETER is not None
    await live.deploy(GREETER)
    page = (await live.public.get("/metrics")).text
    for name in ("insula_guest_log_dropped_total", "insula_instances_passivated_total"):
        assert f'{name}{{service="examples.Greeter.v1"}} 0.0' in page


async def test_a_rollback_goes_to_the_digest_before(live: Live, tmp_path: Path) -> None:
    first = hostile(tmp_path / "1.okra.pkg")
    second = hostile(tmp_path / "2.okra.pkg", limits={"timeout_ms": 4000})
    before = (await live.deploy(first)).json()["digest"]
    after = (await live.deploy(second, override="true")).json()
    assert after["digest"] != before
    assert after["changes"] == ["limit timeout_ms 5000 becomes 4000"]
    back = await live.admin.post("/api/v1/packages/test.Hostile.v1/rollback")
    assert back.json()["digest"] == before
    again = await live.admin.post("/api/v1/packages/test.Hostile.v1/rollback")
    assert (again.status_code, again.json()["code"]) == (409, "failed_precondition")


async def test_no_request_fails_while_a_service_is_overridden(live: Live, tmp_path: Path) -> None:
    """Under load from several connections, twenty overrides in a row, and one between two parts of a body."""
    packages = [hostile(tmp_path / f"{n}.okra.pkg", limits={"timeout_ms": 4000 + n}) for n in range(2)]
    await live.deploy(packages[0])
    done = asyncio.Event()
    answers: list[tuple[int, str]] = []

    async def load_it() -> None:
        while not done.is_set():
            answer = await live.call("/test.Hostile/echo", {"text": "here"})
            answers.append((answer.status_code, answer.text))

    async def slow_body() -> AsyncIterator[bytes]:
        yield b'{"text":'
        assert (await live.deploy(packages[1], override="true")).status_code == 200
        yield b'"late"}'

    workers = [asyncio.create_task(load_it()) for _ in range(4)]
    for round_number in range(20):
        assert (await live.deploy(packages[round_number % 2], override="true")).status_code == 200
    late = await live.public.post(
        "/test.Hostile/echo", content=slow_body(), headers={"content-type": "application/json"}
    )
    done.set()
    await asyncio.gather(*workers)
    assert (late.status_code, late.json()["text"]) == (200, "late")
    assert len(answers) > 20
    assert {status for status, _ in answers} == {200}


# What bad input gets


@pytest.mark.parametrize(
    ("method", "code", "status"),
    [
        ("loop", "deadline_exceeded", 504),
        ("bomb", "resource_exhausted", 429),
        ("overflow", "internal", 500),
        ("quit", "internal", 500),
        ("trap", "internal", 500),
        ("outside", "internal", 500),
        ("huge", "internal", 500),
        ("shapeless", "internal", 500),
        ("broken", "internal", 500),
        ("refuse", "not_found", 404),
        ("guarded", "unauthenticated", 401),
        ("nothing", "unimplemented", 404),
    ],
)
async def test_what_a_hostile_guest_gets_its_caller(
    live: Live, tmp_path: Path, method: str, code: str, status: int
) -> None:
    await live.deploy(hostile(tmp_path / "hostile.okra.pkg", limits={"timeout_ms": 500, "memory_mb": 32}))
    answer = await live.call(f"/test.Hostile/{method}")
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert "Traceback" not in answer.text
    assert "/insula/" not in answer.text
    again = await live.call("/test.Hostile/echo", {"text": "well"})
    assert (again.status_code, again.json()["text"]) == (200, "well")


async def test_a_trap_leaves_nothing_behind(live: Live, tmp_path: Path) -> None:
    await live.deploy(hostile(tmp_path / "hostile.okra.pkg", limits={"max_instances": 1, "memory_mb": 32}))
    assert (await live.call("/test.Hostile/keep")).json()["code"] == "internal"
    assert (await live.call("/test.Hostile/bomb")).json()["code"] == "resource_exhausted"
    assert (await live.call("/test.Hostile/kept")).json()["text"] == "nothing"


async def test_loops_stop_and_hold_nobody_up(live: Live, tmp_path: Path) -> None:
    await live.deploy(hostile(tmp_path / "hostile.okra.pkg", limits={"timeout_ms": 30_000}))
    short = {"connect-timeout-ms": "1000"}
    loops = [asyncio.create_task(live.call("/test.Hostile/loop", **short)) for _ in range(4)]
    others = 0
    while not all(loop.done() for loop in loops):
        assert (await live.public.get("/health")).status_code == 200
        assert (await live.call("/test.Hostile/echo", {"text": "x"})).status_code == 200
        others += 1
    assert others
    assert {loop.result().json()["code"] for loop in loops} == {"deadline_exceeded"}


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        (b'{"text": "\xff\xfe"}', "invalid_argument", 400),
        (b"[" * 10_000, "invalid_argument", 400),
        (b'{"text":' * 10_000 + b"1" + b"}" * 10_000, "invalid_argument", 400),
        (b'{"text": 7}', "invalid_argument", 400),
        (b'{"big": "99999999999999999999"}', "invalid_argument", 400),
        (b'{"at": "yesterday"}', "invalid_argument", 400),
        (b"", "invalid_argument", 400),
        (b"\0", "invalid_argument", 400),
    ],
)
async def test_bad_bodies_are_refused_with_their_place(
    live: Live, tmp_path: Path, body: bytes, code: str, status: int
) -> None:
    await live.deploy(hostile(tmp_path / "hostile.okra.pkg"))
    answer = await live.public.post("/test.Hostile/echo", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_of_a_gigabyte_is_refused_and_takes_no_memory(live: Live, tmp_path: Path, declared: bool) -> None:
    await live.deploy(hostile(tmp_path / "hostile.okra.pkg"))

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1024):
            yield b" " * (1 << 20)

    headers = {"content-type": "application/json", **({"content-length": str(1 << 30)} if declared else {})}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = await live.public.post("/test.Hostile/echo", content=endless(), headers=headers)
    assert answer.json()["code"] == "resource_exhausted"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"\x1f\x8b" + os.urandom(100)],
    ids=["empty", "garbage", "broken gzip"],
)
async def test_what_is_no_package_is_refused_and_changes_nothing(live: Live, content: bytes) -> None:
    answer = await live.admin.post(
        "/api/v1/packages/deploy", content=content, headers={"content-type": "application/gzip"}
    )
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) >= {"error", "code", "message", "hint"}
    assert (await live.admin.get("/api/v1/packages")).json() == {"services": []}


async def test_a_truncated_upload_is_refused_and_leaves_nothing(live: Live, tmp_path: Path) -> None:
    whole = hostile(tmp_path / "hostile.okra.pkg").read_bytes()
    host, port = live.server.admin_address
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /api/v1/packages/deploy HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/gzip\r\n"
    writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(whole) + whole[: len(whole) // 2])
    await writer.drain()
    writer.write_eof()
    await reader.read()
    writer.close()
    answer = await live.admin.post(
        "/api/v1/packages/deploy", content=whole[:-20], headers={"content-type": "application/gzip"}
    )
    assert answer.status_code == 400
    assert (await live.admin.get("/api/v1/packages")).json() == {"services": []}
    depot = live.server.settings.server.data_dir / "depot"
    assert [path.name for path in depot.iterdir() if path.name != "incoming"] == []


async def test_a_module_that_is_none_and_one_without_its_exports_are_refused(live: Live, tmp_path: Path) -> None:
    import wasmtime

    from tests.packing import HOSTILE, pack

    idl = HOSTILE.format(version="v1")
    modules = {
        "garbage": b"\0asm\x01\0\0\0\x01\xff",
        "handle_request": bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1))')),
        "type": bytes(
            wasmtime.wat2wasm(
                '(module (memory (export "memory") 1) (func (export "allocate") (param i32) (result i32) i32.const 0)'
                '(func (export "deallocate") (param i32)) (func (export "handle_request") (result i32) i32.const 0))'
            )
        ),
        "starts": bytes(
            wasmtime.wat2wasm(
                '(module (memory (export "memory") 1) (func (export "allocate") (param i32) (result i32) i32.const 0)'
                '(func (export "deallocate") (param i32)) (func (export "_initialize") unreachable)'
                '(func (export "handle_request") (param i32 i32 i32 i32) (result i64) i64.const 0))'
            )
        ),
    }
    for name, wasm in modules.items():
        answer = await live.deploy(pack(tmp_path / f"{name}.okra.pkg", idl, wasm))
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument"), f"{name}: {answer.text}"
    assert (await live.admin.get("/api/v1/packages")).json() == {"services": []}


async def test_a_package_that_asks_for_more_than_is_granted_is_refused_with_the_line_to_add(
    live: Live, tmp_path: Path
) -> None:
    answer = await live.deploy(hostile(tmp_path / "hostile.okra.pkg", host_apis=["okra.env"]))
    assert answer.status_code == 403
    assert 'allow = {"test.Hostile" = ["okra.env"]}' in answer.json()["hint"]


# The web page on another site


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"sec-fetch-site": "cross-site"},
    ],
)
async def test_a_web_page_cannot_call_the_admin_api(live: Live, headers: dict[str, str]) -> None:
    for request in (
        live.admin.build_request("GET", "/api/v1/packages", headers=headers),
        live.admin.build_request("POST", "/api/v1/packages/deploy", json={"source": "file:///x"}, headers=headers),
        live.admin.build_request("DELETE", "/api/v1/packages/a.B.v1", headers=headers),
    ):
        assert (await live.admin.send(request)).status_code == 403


# Lasting


async def test_a_second_start_finds_the_services_again_in_their_order(tmp_path: Path) -> None:
    packages = [hostile(tmp_path / f"{version}.okra.pkg", version=version) for version in ("v2", "v1")]
    async with running(tmp_path) as live:
        for package in packages:
            await live.deploy(package)
    async with running(tmp_path) as live:
        listed = (await live.admin.get("/api/v1/packages")).json()["services"]
        assert [(entry["id"], entry["state"]) for entry in listed] == [
            ("test.Hostile.v2", "ready"),
            ("test.Hostile.v1", "ready"),
        ]
        assert (await live.admin.get("/api/v1/packages/test.Hostile.v1")).json()["latest"] is True
        assert (await live.call("/test.Hostile/echo", {"text": "again"})).json()["text"] == "again"


async def test_a_service_that_cannot_start_stops_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert GREETER is not None
    async with running(tmp_path) as live:
        digest = (await live.deploy(hostile(tmp_path / "hostile.okra.pkg"))).json()["digest"]
        await live.deploy(GREETER)
    depot = tmp_path / "insula-data" / "depot" / digest.removeprefix("sha256:")
    wasm = next(depot.rglob("service.wasm"))
    wasm.chmod(0o644)
    whole = wasm.read_bytes()
    wasm.write_bytes(whole[:-1] + bytes((whole[-1] ^ 1,)))
    with caplog.at_level(logging.ERROR, "insula.deployments"):
        async with running(tmp_path) as live:
            shown = (await live.admin.get("/api/v1/packages/test.Hostile.v1")).json()
            assert shown["state"] == "stopped"
            assert shown["last_error"]
            assert (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 200
            refused = await live.call("/test.Hostile/echo", {"text": "x"})
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert "test.Hostile.v1 is deployed and could not be started" in refused.json()["message"]
            mended = await live.deploy(hostile(tmp_path / "hostile.okra.pkg"), override="true")
            assert mended.status_code == 200
            assert (await live.call("/test.Hostile/echo", {"text": "x"})).status_code == 200
    assert "test.Hostile.v1 does not start" in caplog.text


def test_a_kill_during_deploys_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    package = hostile(tmp_path / "hostile.okra.pkg")
    other = hostile(tmp_path / "other.okra.pkg", limits={"timeout_ms": 4000})
    random_source = random.Random(7)
    acknowledged = ""
    for _ in range(6):
        server = Process(tmp_path)
        try:
            with httpx.Client(timeout=30) as client:
                if acknowledged:
                    shown = client.get(f"{server.admin_url}/api/v1/packages/test.Hostile.v1").json()
                    assert shown["state"] == "ready"
                    answer = client.post(f"{server.url}/test.Hostile/echo", json={"text": "kept"})
                    assert answer.json()["text"] == "kept"
                kill_after = random_source.randrange(1, 6)
                for number in range(kill_after):
                    sent = package if number % 2 else other
                    request = client.build_request(
                        "POST",
                        f"{server.admin_url}/api/v1/packages/deploy?override=true",
                        headers={"content-type": "application/gzip"},
                        content=sent.read_bytes(),
                    )
                    if number == kill_after - 1:
                        kill = subprocess.Popen(
                            ["sh", "-c", f"sleep 0.0{random_source.randrange(10)}; kill -9 {server.popen.pid}"]
                        )
                        try:
                            acknowledged = client.send(request).json()["digest"]
                        except httpx.HTTPError:
                            pass
                        kill.wait()
                    else:
                        answer = client.send(request)
                        assert answer.status_code == 200, answer.text
                        acknowledged = answer.json()["digest"]
        finally:
            server.end(signal.SIGKILL)
    depot = tmp_path / "insula-data" / "depot"
    assert all(len(path.name) == 64 or path.name == "incoming" for path in depot.iterdir())


# The process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with process(tmp_path, "--deploy", "greeter") as server:
        assert httpx.post(f"{server.url}/examples.Greeter/greet", json={"name": "x"}).status_code == 200
        assert server.end(number) == 0
        assert "stopped" in server.log.read_text()


async def test_a_signal_lets_calls_in_flight_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    package = hostile(tmp_path / "hostile.okra.pkg", limits={"timeout_ms": 1500})
    server = await asyncio.to_thread(Process, tmp_path, "--deploy", str(package))
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            slow = asyncio.create_task(client.post("/test.Hostile/loop", json={}))
            while (await client.get("/metrics")).text.find('insula_calls_total{service="test.Hostile.v1"} 1.0') < 0:
                pass
            server.popen.send_signal(signal.SIGTERM)
            assert (await slow).json()["code"] == "deadline_exceeded"
        assert await asyncio.to_thread(server.end) == 0
    finally:
        await asyncio.to_thread(server.end, signal.SIGKILL)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    package = hostile(tmp_path / "hostile.okra.pkg", limits={"timeout_ms": 60_000})
    with process(tmp_path, "--deploy", str(package)) as server:
        with httpx.Client(timeout=30) as client:
            looping = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"import httpx; httpx.post('{server.url}/test.Hostile/loop', json={{}}, timeout=60)",
                ],
                stderr=subprocess.DEVNULL,
            )
            while 'insula_calls_total{service="test.Hostile.v1"} 1.0' not in client.get(f"{server.url}/metrics").text:
                pass
        server.popen.send_signal(signal.SIGTERM)
        while "stopping" not in server.log.read_text():
            pass
        assert server.end(signal.SIGTERM, timeout=5) == 0
        looping.kill()
        looping.wait()


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with process(tmp_path):
        second = subprocess.run(
            [sys.executable, "-m", "insula", "serve", "--port", "0", "--admin-port", "0"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert second.returncode not in (0, None)
    assert "in use by another server" in second.stderr
    assert "--data-dir" in second.stderr
    assert "Traceback" not in second.stderr


def test_what_is_imported_to_start_is_what_is_needed_to_start(tmp_path: Path) -> None:
    """A start on a data folder that is there already: what a feature needs comes when the feature is used."""
    with process(tmp_path, "--deploy", "greeter") as server:
        server.end()
    script = (
        "import asyncio, json, sys\n"
        "from insula import Server, load\n"
        "async def main():\n"
        "    server = Server(load(flags={'server.port': 0, 'server.admin_port': 0}))\n"
        "    await server.start()\n"
        "    import httptools\n"
        "    host, port = server.address\n"
        "    r, w = await asyncio.open_connection(host, port)\n"
        '    body = b\'{"name":"x"}\'\n'
        "    w.write(b'POST /examples.Greeter/greet HTTP/1.1\\r\\nhost: x\\r\\ncontent-type: application/json\\r\\n'\n"
        "            b'content-length: %d\\r\\n\\r\\n' % len(body) + body)\n"
        "    assert (await r.readline()).endswith(b'200 OK\\r\\n')\n"
        "    w.close()\n"
        "    names = {name.split('.')[0] for name in sys.modules}\n"
        "    await server.stop()\n"
        "    print(json.dumps(sorted(names)))\n"
        "asyncio.run(main())\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(out.stdout.splitlines()[-1]))
    assert loaded >= {"insula", "msgspec", "sqlalchemy", "wasmtime"}
    foreign = {
        name
        for name in loaded - set(sys.stdlib_module_names)
        if not name.startswith("_") and name not in ("insula", "msgspec", "sqlalchemy", "wasmtime")
    }
    assert foreign <= {"click", "cython_runtime", "httptools", "typing_extensions", "uvloop"}, foreign


# As a library


async def test_the_public_port_is_an_asgi_application(tmp_path: Path) -> None:
    server = Server(load(environ={}, cwd=tmp_path), deploy=["greeter"])
    app: Any = server.app()
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan"}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/examples.Greeter/greet", json={"name": "ASGI"})
        assert answer.json()["message"] == "Hello, ASGI!"
    await inbox.put({"type": "lifespan.shutdown"})
    assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
    await lifespan


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how large the table is")
def test_the_table_of_open_files_has_its_size_from_the_start(tmp_path: Path) -> None:
    """Else Linux makes it larger while connections come, and the loop stands still for that."""
    with process(tmp_path) as server:
        status = Path(f"/proc/{server.popen.pid}/status").read_text()
    [size] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("FDSize:")]
    assert size >= 4096
