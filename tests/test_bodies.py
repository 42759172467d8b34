"""A whole server, and bodies and answers that become much more than they are: they are refused, and nobody else waits."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import wasmtime

from tests.packing import pack
from tests.running import Live, running

ROW = " ".join(f"field_{number}: String!" for number in range(990))
IDL = f"""
@okra(namespace: "test", version: "v1")
service Grow {{
  echo(input: Table): Table
  zeros: Table
}}
type Table {{ rows: [Row!]! names: [String!] language: String }}
type Row {{ {ROW} }}
"""
ZEROS = b'{"rows":[' + b",".join([b"{}"] * 5_000) + b"]}"
MB = 1 << 20


def grow(folder: Path) -> Path:
    """A package that answers with its input, and to `zeros` with 15 KB of empty objects."""
    wasm = wasmtime.wat2wasm(
        f"""(module
        (memory (export "memory") 256)
        (data (i32.const 1024) "{ZEROS.decode().replace('"', chr(92) + '"')}")
        (global $next (mut i32) (i32.const 65536))
        (func (export "allocate") (param $size i32) (result i32)
          (global.get $next)
          (global.set $next (i32.add (global.get $next) (local.get $size))))
        (func (export "deallocate") (param i32))
        (func (export "handle_request") (param $method i32) (param $length i32) (param $input i32) (param $size i32)
          (result i64)
          (global.set $next (i32.const 65536))
          (if (result i64) (i32.eq (local.get $length) (i32.const 5))
            (then (i64.const {1024 << 32 | len(ZEROS)}))
            (else (i64.or
              (i64.shl (i64.extend_i32_u (local.get $input)) (i64.const 32))
              (i64.extend_i32_u (local.get $size)))))))"""
    )
    return pack(folder / "grow.okra.pkg", IDL, bytes(wasm))


async def beside(live: Live, asking: Any) -> tuple[httpx.Response, float]:
    """The answer to a request, and the longest that /health and the greeter took meanwhile, in seconds."""
    asked = asyncio.ensure_future(asking)
    longest = 0.0
    while not asked.done():
        began = time.monotonic()
        assert (await live.public.get("/health")).status_code == 200
        assert (await live.call("/examples.Greeter/greet", {"name": "x"})).status_code == 200
        longest = max(longest, time.monotonic() - began)
    return asked.result(), longest


MANY = [
    ("/examples.Greeter/greet", b'{"language":1,"names":[' + b'"",' * 1_300_000 + b'""]}', "limits.body_values"),
    ("/test.Grow/echo", b'{"language":1,"names":[' + b'"",' * 1_300_000 + b'""]}', "limits.body_values"),
    ("/test.Grow/echo", b'{"rows":[' + b"{}," * 19_999 + b"{}]}", "limits.body_bytes"),
    ("/test.Grow/echo", b'{"rows":[' + b'{"field_1":""},' * 19_999 + b"{}]}", "limits.body_bytes"),
]


@pytest.mark.parametrize(("path", "body", "limit"), MANY, ids=["greeter", "names", "rows", "members"])
async def test_a_small_request_that_is_a_large_body_is_refused_and_nobody_waits(
    tmp_path: Path, path: str, body: bytes, limit: str
) -> None:
    async with running(tmp_path, deploy=["greeter"]) as live:
        assert (await live.deploy(grow(tmp_path))).status_code == 200
        before = psutil.Process().memory_info().rss
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        packed = gzip.compress(body)
        answer, longest = await beside(live, live.public.post(path, content=packed, headers=headers))
        assert (answer.status_code, answer.json()["code"]) == (429, "resource_exhausted"), answer.text
        assert limit in answer.json()["message"]
        assert longest < 1.0
        assert psutil.Process().memory_info().rss - before < 150 * MB


async def test_an_answer_that_would_grow_is_refused_and_nobody_waits(tmp_path: Path) -> None:
    async with running(tmp_path, deploy=["greeter"]) as live:
        assert (await live.deploy(grow(tmp_path))).status_code == 200
        for headers, body in (({}, b"{}"), ({"content-type": "application/proto"}, b"")):
            request = live.public.post(
                "/test.Grow/zeros", content=body, headers={"content-type": "application/json", **headers}
            )
            answer, longest = await beside(live, request)
            assert (answer.status_code, answer.json()["code"]) == (429, "resource_exhausted"), answer.text
            assert "limits.output_mb" in answer.json()["message"]
            assert longest < 1.0


async def test_unknown_fields_of_binary_are_counted_and_nobody_waits(tmp_path: Path) -> None:
    async with running(tmp_path, deploy=["greeter"]) as live:
        headers = {"content-type": "application/proto"}
        for body in (b"\xf8\x06\x00" * 1_000_000, b"\xfb\x06\xfc\x06" * 1_000_000):
            answer, longest = await beside(
                live, live.public.post("/examples.Greeter/greet", content=body, headers=headers)
            )
            assert (answer.status_code, answer.json()["code"]) == (429, "resource_exhausted"), answer.text
            assert "limits.body_values" in answer.json()["message"]
            assert longest < 1.0


async def test_the_operator_sets_how_many_values_a_body_may_have(tmp_path: Path) -> None:
    async with running(tmp_path, {"limits.body_values": 100}) as live:
        assert (await live.deploy(grow(tmp_path))).status_code == 200
        for count, status in ((97, 200), (98, 429)):  # beside the object and its two lists
            body = {"rows": [], "names": ["[,"] * count}
            assert (await live.call("/test.Grow/echo", body)).status_code == status


async def test_the_operator_gives_one_service_other_limits(tmp_path: Path) -> None:
    own = {"body_bytes": 20_000, "body_values": 6_000, "output_mb": 1, "timeout_ms": 7000}
    async with running(tmp_path, {"limits.services": {"test.Grow": own}}, deploy=["greeter"]) as live:
        assert (await live.deploy(grow(tmp_path))).status_code == 200
        for path, status in (("/test.Grow/echo", 429), ("/examples.Greeter/greet", 200)):
            assert (await live.call(path, {"name": "x", "more": [0] * 6_000})).status_code == status
        large = {"name": "x" * 20_000}
        refused = await live.call("/test.Grow/echo", large)
        assert (refused.status_code, "20000 bytes" in refused.json()["message"]) == (429, True)
        assert (await live.call("/examples.Greeter/greet", large)).status_code == 200
        assert f"{1 << 20} bytes" in (await live.call("/test.Grow/zeros")).json()["message"]


async def test_a_large_body_goes_in_and_out(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        assert (await live.deploy(grow(tmp_path))).status_code == 200
        body = {"rows": [{f"field{number}": "x" for number in range(990)}], "names": ["y"] * 30_000}
        answers = await asyncio.gather(*(live.call("/test.Grow/echo", body) for _ in range(4)))
        assert [answer.json() == body for answer in answers] == [True] * 4
        large = {"rows": [], "language": "x" * 3_900_000}
        assert json.loads((await live.call("/test.Grow/echo", large)).content) == large
