"""Bodies and answers that are too much, and those that are read and written elsewhere, over both roads."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
from typing import Any

import httpx
import pytest

from insula.edge.compression import CODINGS
from insula.transcoding.process import Process
from tests.edge.conftest import until
from tests.gateways.conftest import MAX_VALUES, Shop

#: Many values, and fewer than are refused. Written in binary they are more than the event loop reads.
LARGE: dict[str, Any] = {"name": "x", "tags": ["a"] * 15_000}
LARGE_BINARY = b"\x0a\x01x" + b"\x2a\x01a" * 15_000
#: More than the event loop reads: each of the brackets might begin an object.
AWAY: dict[str, Any] = {"name": "{" * 90_000}
PROTO = {"content-type": "application/proto"}


def of(answer: Any) -> tuple[int, str, str]:
    """Status, code and message of a refusal."""
    body = answer.json()
    return answer.status_code, body["code"], body["message"]


@pytest.mark.parametrize("later", [False, True])
async def test_a_large_body_and_answer(shop: Shop, later: bool) -> None:
    shop.echo.headers = (("x-a", "1"),) if later else ()
    for body, headers, expected in (
        (LARGE, {}, json.dumps(LARGE, separators=(",", ":")).encode()),
        (LARGE_BINARY, PROTO, LARGE_BINARY),
    ):
        shop.echo.later = later
        shop.echo.asked.clear()
        asking = asyncio.ensure_future(shop.post(body, headers={"accept-encoding": "identity", **headers}))
        if later:
            await shop.echo.asked.wait()
            shop.echo.pending[-1].set_result(shop.echo.reply(shop.echo.calls[-1]))
        answer = await asking
        assert (answer.status_code, answer.content) == (200, expected)
        assert answer.headers.get("x-a") == ("1" if later else None)
        assert json.loads(shop.echo.calls[-1].payload) == LARGE


async def test_a_large_message_in_a_query(shop: Shop) -> None:
    message = base64.urlsafe_b64encode(gzip.compress(json.dumps(LARGE).encode())).decode()
    answer = await shop.http.get(
        "/shop.Echo/getThing",
        params={"connect": "v1", "encoding": "json", "base64": "1", "compression": "gzip", "message": message},
    )
    assert (answer.status_code, answer.json()) == (200, LARGE)


@pytest.mark.parametrize("kind", ["json", "binary"])
async def test_a_body_with_too_many_values(shop: Shop, kind: str) -> None:
    binary = b"\x2a\x01a" * (MAX_VALUES + 1)
    body = b'{"name":"x","more":[%b0]}' % (b"0," * MAX_VALUES) if kind == "json" else binary
    status, code, message = of(await shop.post(body, headers=PROTO if kind == "binary" else {}))
    assert (status, code) == (429, "resource_exhausted")
    assert f"limits.body_values allows, {MAX_VALUES}" in message
    assert not shop.echo.calls


@pytest.mark.parametrize("kind", ["json", "binary"])
@pytest.mark.parametrize("later", [False, True])
async def test_an_answer_that_is_too_much_is_the_guests(shop: Shop, kind: str, later: bool) -> None:
    headers = PROTO if kind == "binary" else {}
    for answer, limit in (
        (b'{"more":[%b0]}' % (b"0," * MAX_VALUES), "limits.body_values"),
        (b'{"name":"%b"}' % (b"x" * (1 << 20)), "limits.output_mb"),
    ):
        shop.echo.answer, shop.echo.later = answer, later
        shop.echo.asked.clear()
        asking = asyncio.ensure_future(shop.post(b"" if kind == "binary" else {}, headers=headers))
        if later:
            await shop.echo.asked.wait()
            shop.echo.pending[-1].set_result(shop.echo.reply(shop.echo.calls[-1]))
        status, code, message = of(await asking)
        assert (status, code, message.startswith("the service's answer")) == (429, "resource_exhausted", True), message
        assert limit in message


@pytest.mark.parametrize(("body", "headers"), [(AWAY, {}), (LARGE_BINARY, PROTO)])
async def test_the_deadline_holds_while_a_body_is_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, body: Any, headers: dict[str, str]
) -> None:
    told = threading.Event()
    run = Process.run

    def slow(process: Process, *job: Any) -> bytes:
        assert told.wait(30)
        return run(process, *job)

    monkeypatch.setattr(Process, "run", slow)
    answer = await shop.post(body, headers={"connect-timeout-ms": "50", **headers})
    told.set()
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert not shop.echo.calls


async def test_messages_in_queries_that_are_slow_to_inflate_have_a_share(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's own threads, where modules are loaded and packages read, are left alone; so is another service's share."""
    go = threading.Event()

    def slow(data: bytes, limit: int) -> bytes:
        assert go.wait(30)
        return b'{"name":"x"}'

    async def get(version: str) -> Any:
        query = {"message": "x", "compression": "br"}
        return await shop.http.get(f"/shop.Echo.{version}/getThing", params=query, timeout=60)

    monkeypatch.setitem(CODINGS, b"br", CODINGS[b"br"]._replace(inflate=slow))
    offload = shop.app.offload
    shop.http.timeout = httpx.Timeout(60)
    asking = [asyncio.ensure_future(get("v1")) for _ in range(64)]
    await until(lambda: offload._shares.used("shop.Echo.v1") == 64)
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(str, 1) == "1"
        assert await offload.run("another", str, 1) == "1"
    while offload._shares.take("shop.Echo.v1"):
        pass
    refused = await get("v1")
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    go.set()
    assert {(answer.status_code, answer.content) for answer in await asyncio.gather(*asking)} == {
        (200, b'{"name":"x"}')
    }
    assert (await get("v0")).status_code == 200
