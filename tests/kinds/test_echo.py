"""A second kind, from a file that nothing of the product knows: deployed, called, replaced, drained and started again over
a whole server."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
import wasmtime

from insula.errors import ConfigurationError
from insula.kinds import catalogue
from tests.kinds.echo import EchoKind, write_echo
from tests.running import Live, running

GUEST = """(module
  (import "echo" "log" (func $log (param i32 i32)))
  (import "echo" "keep" (func $keep (param i32 i32 i32 i32)))
  (import "echo" "kept" (func $kept (param i32 i32) (result i64)))
  (import "echo" "left" (func $left (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "begunbusy finished")
  (data (i32.const 64) "{{\\"text\\":\\"{word}\\"}}")
  (global $next (mut i32) (i32.const 1024))
  (func (export "alloc") (param $n i32) (result i32)
    (global.get $next) (global.set $next (i32.add (global.get $next) (local.get $n)))
    (if (i32.gt_u (global.get $next) (i32.const 60000)) (then (global.set $next (i32.const 1024)))))
  (func (export "begin")
    (call $keep (i32.const 0) (i32.const 5) (i32.const 64) (i32.const {size}))
    (call $log (i32.const 0) (i32.const 5)) {start})
  (func (export "busy") (result i32) (call $log (i32.const 5) (i32.const 4)) (call $left))
  (func (export "finish") (call $log (i32.const 10) (i32.const 8)))
  (func $packed (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1))))
  (func (export "say") (param i32 i32) (result i64) (call $packed (i32.const 64) (i32.const {size})))
  (func (export "echo") (param i32 i32) (result i64) (call $packed (local.get 0) (local.get 1)))
  (func (export "remember") (param i32 i32) (result i64)
    (call $keep (i32.const 5) (i32.const 4) (local.get 0) (local.get 1)) (call $packed (local.get 0) (local.get 1)))
  (func (export "recall") (param i32 i32) (result i64) (call $kept (i32.const 5) (i32.const 4)))
  (func (export "refuse") (param i32 i32) (result i64) (i64.const 0)))"""

NAME = "insula.guest.shop.Mirror.v1"


def module(word: str, start: str = "") -> bytes:
    text = GUEST.format(word=word, size=len(word) + 11, start=start)
    return bytes(wasmtime.wat2wasm(text.replace("begunbusy ", "begun" + "busy" + "\\00")))


def echo(folder: Path, word: str, wasm: bytes | None = None) -> Path:
    return write_echo(folder / f"{word}.echo", "shop.Mirror.v1", word, module(word) if wasm is None else wasm)


async def deploy(live: Live, file: Path, **more: Any) -> httpx.Response:
    """By its source, over the admin port."""
    return await live.admin.post("/api/v1/packages/deploy", json={"source": file.as_uri(), **more})


async def say(live: Live, method: str = "say", **body: Any) -> Any:
    answer = await live.call(f"/shop.Mirror/{method}", body)
    return answer.json().get("text", answer.json().get("code"))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.name == NAME]
    caplog.clear()
    return lines


async def test_it_is_deployed_called_replaced_rolled_back_and_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, NAME)
    kind = EchoKind()
    async with running(tmp_path, deploy=["greeter"], kinds=[kind]) as live:
        deployed = await deploy(live, echo(tmp_path, "one"))
        assert deployed.status_code == 200, deployed.text
        assert deployed.json()["service_id"] == "shop.Mirror.v1"
        assert deployed.json()["endpoints"][:2] == ["/shop.Mirror/say", "/shop.Mirror/echo"]
        assert deployed.json()["changes"][0] == "a new service with 5 methods"
        assert told(caplog) == ["begun"], "the start of its instance called the host, and waited for it"

        assert await say(live) == "one"
        assert await say(live, "echo", text="héllo") == "héllo"
        assert await say(live, "recall") == "not_found", "null is told as null"
        assert await say(live, "remember", text="kept") == "kept"
        assert await say(live, "recall") == "kept"
        assert await say(live, "refuse") == "not_found"
        assert (await live.call("/shop.Mirror/echo", {"text": 7})).status_code == 400, "the codec of its schema"
        assert (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 200, "beside another kind"

        shown = (await live.admin.get("/api/v1/packages/shop.Mirror.v1")).json()
        assert [(one["name"], one["input"], one["output"]) for one in shown["methods"]][:2] == [
            ("say", "", "Text"),
            ("echo", "Text", "Text"),
        ]
        assert (shown["version"], shown["limits"]["max_instances"]) == ("one", 1)
        assert shown["host_apis"] == ["okra.log", "okra.state"]

        assert (await deploy(live, echo(tmp_path, "two"))).status_code == 409
        planned = await deploy(live, echo(tmp_path, "two"), plan=True)
        assert planned.json()["changes"] == ["version one becomes two", "the code is different"], planned.text
        uploaded = await live.deploy(echo(tmp_path, "two"), plan="true")
        assert uploaded.json()["changes"] == planned.json()["changes"], "an upload is read by its content too"
        assert await say(live) == "one"
        told(caplog)

        kind.left = [0, 1, 1]
        assert (await deploy(live, echo(tmp_path, "two"), override=True)).status_code == 200
        assert await say(live) == "two"
        for _ in range(2000):
            if "finished" in caplog.messages:
                break
            await asyncio.sleep(0.005)
        assert told(caplog) == ["begun", "busy", "busy", "busy", "finished"], "drained until idle, then closed"

        assert (await live.admin.post("/api/v1/packages/shop.Mirror.v1/rollback")).status_code == 200
        assert await say(live) == "one"

        bad = await deploy(live, echo(tmp_path, "bad", b"\0asm\1\0\0\0"), override=True)
        assert (bad.status_code, bad.json()["reason"]) == (400, "missing_export"), bad.text
        starts = {"many": ("(loop (drop (call $left)) (br 0))", "host calls"), "dead": ("unreachable", "unreachable")}
        for word, (start, why) in starts.items():
            wasm = module(word, start)
            fails = await deploy(live, echo(tmp_path, word, wasm), override=True)
            assert (fails.status_code, fails.json()["code"]) == (400, "invalid_argument"), fails.text
            assert "does not start" in fails.json()["error"]
            assert why in fails.json()["error"]
        assert await say(live) == "one"
        nameless = await deploy(live, write_echo(tmp_path / "x.echo", "Mirror", "x", b""))
        assert "an echo module has no proper name" in nameless.json()["error"], nameless.text
        told(caplog)
    assert told(caplog) == ["busy", "finished"], "a stop drains as well"

    async with running(tmp_path, kinds=[kind]) as live:
        assert await say(live) == "one"
        assert await say(live, "recall") == "kept"
    async with running(tmp_path) as live:
        states = {one["id"]: one for one in (await live.admin.get("/api/v1/packages")).json()["services"]}
        assert states["shop.Mirror.v1"]["state"] == "stopped"
        assert "of a kind that this server does not have" in states["shop.Mirror.v1"]["last_error"]
        assert states["examples.Greeter.v1"]["state"] == "ready", "no other service is down for it"
    async with running(tmp_path, kinds=[kind]) as live:
        assert (await live.admin.delete("/api/v1/packages/shop.Mirror.v1")).status_code in (200, 204)
        assert (await live.call("/shop.Mirror/say")).status_code == 404


class TestRegistered:
    def test_by_argument(self) -> None:
        assert [kind.name for kind in catalogue.load([EchoKind()])] == ["okra", "echo"]

    def test_by_entry_point(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        info = tmp_path / "echo_of_tests-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-of-tests\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[insula.kinds]\necho = tests.kinds.echo:EchoKind\n")
        monkeypatch.syspath_prepend(tmp_path)
        assert [kind.name for kind in catalogue.load()] == ["okra", "echo"]
        with pytest.raises(ConfigurationError, match="two kinds are named echo"):
            catalogue.load([EchoKind()])
        (info / "entry_points.txt").write_text("[insula.kinds]\necho = tests.kinds.echo:Nothing\n")
        with pytest.raises(ConfigurationError, match="the kind 'echo'"):
            catalogue.load()
