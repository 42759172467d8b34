"""The application over a real listener: order of the refusals, answers that wait, panics, bad headers, codings."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import zlib
from collections.abc import AsyncIterator

import brotli  # type: ignore[import-untyped]
import httpx
import pytest
import zstandard

from insula.edge.admission import Draining, Identified
from insula.edge.exchange import Response, Route
from insula.edge.limits import ConnectionLimits
from insula.edge.routes import RouteTable
from insula.errors import CallerError, InsulaError
from insula.plans import Policy
from tests.edge.conftest import ROADS, Probe, Street, street, until
from tests.edge.roads import Told, post, told_table

pytestmark = ROADS

TEXT = (b"content-type", b"text/plain")


@pytest.fixture
async def here() -> AsyncIterator[Street]:
    async with street(
        ConnectionLimits(), max_body=100_000
    ) as found:  # which ends no idle connection, however slow the machine
        yield found


@pytest.fixture
async def http(here: Street) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=here.listener.url, trust_env=False, verify=False) as client:
        yield client


async def test_a_sane_request_id_comes_back_and_another_does_not(here: Street, http: httpx.AsyncClient) -> None:
    for sent in ("abc-1.2_3", "x" * 128):
        answer = await http.get("/echo", headers={"x-request-id": sent})
        assert answer.headers["x-request-id"] == sent
        assert here.probe.heads[-1].request_id == sent
    for sent in ("a b", "x" * 129, "<script>", "", "é"):
        answer = await http.get("/echo", headers={b"x-request-id": sent.encode()})
        assert len(answer.headers["x-request-id"]) == 32
    for path in ("/nowhere", "/echo?raise", "/echo?refuse"):
        answer = await http.get(path, headers={"x-request-id": "mine"})
        assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"] == "mine"


async def test_methods(http: httpx.AsyncClient) -> None:
    answer = await http.delete("/echo")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    answer = await http.options("/echo")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, "GET, HEAD, OPTIONS, POST", b"")
    full, bare = await http.get("/echo?big=50"), await http.head("/echo?big=50")
    assert (bare.status_code, bare.content) == (200, b"")
    assert bare.headers["content-length"] == full.headers["content-length"] == "50"
    assert (await http.options("/nowhere")).status_code == 404


async def test_the_table_is_swapped_whole(here: Street, http: httpx.AsyncClient) -> None:
    await http.get("/echo")
    other = Probe()
    here.app.table = RouteTable([(b"/other", Route(other, "/other"))], [(b"/under/", Route(other, "/under"))])
    assert (await http.get("/echo")).status_code == 404
    assert (await http.get("/other")).status_code == 200
    assert (await http.get("/under/any/thing")).status_code == 200
    assert set(here.app.metrics.routes) == {"/other", "/under", "missing"}


async def test_nothing_is_read_for_someone_who_may_not_call(here: Street, http: httpx.AsyncClient) -> None:
    broken = {"content-encoding": "gzip"}
    here.app.rules = (Identified(),)
    here.app.table = RouteTable([(b"/echo", Route(here.probe, "/echo", frozenset(("POST",)), Policy(True), 10))])
    answer = await http.post("/echo", content=b"not gzip at all", headers=broken)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "unauthenticated"
    here.app.rules = ()
    here.probe.refusal = CallerError("wrong type", status=415)
    assert (await http.post("/echo", content=b"not gzip at all", headers=broken)).status_code == 415
    here.probe.refusal = None
    assert (await http.post("/echo", content=b"not gzip at all", headers=broken)).status_code == 413
    assert (await http.post("/echo", content=b"not gzip", headers=broken)).status_code == 400
    assert here.probe.bodies == []


async def test_draining_lets_health_in(here: Street, http: httpx.AsyncClient) -> None:
    health = Probe()
    here.app.table = RouteTable([(b"/echo", Route(here.probe, "/echo")), (b"/health", Route(health, "/health"))])
    assert (await http.get("/echo")).status_code == 200
    here.app.rules = (Draining(frozenset(("/health",))),)
    answer = await http.get("/echo")
    assert (answer.status_code, answer.headers["retry-after"], answer.json()["error"]["reason"]) == (
        503,
        "5",
        "draining",
    )
    assert (await http.get("/health")).status_code == 200


async def test_a_route_without_a_body_refuses_one(here: Street, http: httpx.AsyncClient) -> None:
    here.app.table = RouteTable([(b"/bare", Route(here.probe, "/bare"))])
    assert (await http.request("GET", "/bare", content=b"x")).status_code == 413

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    assert (await http.request("GET", "/bare", content=chunks())).status_code == 413
    assert (await http.get("/bare")).status_code == 200


async def test_an_unmeasured_body_is_bounded(here: Street, http: httpx.AsyncClient) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 10_000

    assert (await http.post("/echo", content=chunks(10))).status_code == 200
    answer = await http.post("/echo", content=chunks(11))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "resource_exhausted")


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("br", brotli.compress),
        ("zstd", zstandard.compress),
        ("identity", bytes),
        ("gzip, br", lambda data: brotli.compress(gzip.compress(data))),
    ],
)
async def test_bodies_are_inflated_within_the_bound(
    here: Street, http: httpx.AsyncClient, coding: str, encode: object
) -> None:
    assert callable(encode)
    for size in (0, 5, 99_999):
        body = (b"0123456789" * 10_000)[:size]
        answer = await http.post("/echo", content=encode(body), headers={"content-encoding": coding})
        assert (answer.status_code, answer.content) == (200, body)
        assert here.probe.bodies[-1] == body
    answer = await http.post("/echo", content=encode(b"0" * 100_001), headers={"content-encoding": coding})
    assert answer.status_code == 413


async def test_an_unknown_coding_is_named(http: httpx.AsyncClient) -> None:
    answer = await http.post("/echo", content=b"x", headers={"content-encoding": "rot13"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unimplemented")
    assert "rot13" in answer.json()["error"]["message"]


async def test_answers_are_compressed_as_the_client_weighs(http: httpx.AsyncClient) -> None:
    async def coding(accept: str, size: int = 5000) -> str | None:
        answer = await http.get(f"/echo?big={size}", headers={"accept-encoding": accept})
        assert answer.text == "x" * size
        found: str | None = answer.headers.get("content-encoding")
        return found

    assert await coding("gzip, deflate, br, zstd") == "zstd"
    assert await coding("gzip;q=1.0, zstd;q=0.5") == "gzip"
    assert await coding("gzip;q=0.5, *;q=0") == "gzip"
    assert await coding("*") == "zstd"
    assert await coding("br") == "br"
    assert await coding("identity") is None
    assert await coding("identity, gzip;q=0.9") is None
    assert await coding("gzip;q=0") is None
    assert await coding("rot13") is None
    assert await coding("gzip", 100) is None
    assert await coding("gzip", 200_000) == "gzip"
    answer = await http.get("/echo?big=5000", headers={"accept-encoding": "identity"})
    assert answer.headers["vary"] == "accept-encoding"


async def test_a_panic_is_a_whole_500_and_tells_nothing(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.get("/echo?raise", headers={"x-request-id": "find-me"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert "find-me" in caplog.text
    assert "a secret of the server" in caplog.text
    assert (await http.get("/echo")).status_code == 200


async def test_a_refusal_keeps_what_it_says(http: httpx.AsyncClient) -> None:
    answer = await http.get("/echo?refuse", headers={"x-request-id": "r"})
    assert (answer.status_code, answer.headers["retry-after"]) == (409, "7")
    assert answer.json() == {
        "error": {"code": "aborted", "reason": "busy", "message": "not now", "hint": "later", "request_id": "r"}
    }


@pytest.mark.parametrize(
    "bad",
    [
        (b"content-length", b"abc"),
        (b"Content-Length", b"5"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"x-a", b"one\r\nset-cookie: stolen=1"),
        (b"x-a", b"one\nset-cookie: stolen=1"),
        (b"x-a", b"\x00"),
        (b"x-a", b" padded"),
        (b"x a", b"b"),
        (b"x-a:", b"b"),
        (b"", b"b"),
        (b"x-a\r\nx-b", b"b"),
        (b"x-long", b"v" * 70_000),
    ],
)
async def test_a_bad_header_of_an_answer_is_a_whole_500(
    here: Street, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, bad: tuple[bytes, bytes]
) -> None:
    class Bad(Probe):
        def answer(self, head: object, body: bytes) -> Response:
            return Response(200, (TEXT, (b"x-good", b"1"), bad), b"hello")

    here.app.table = RouteTable([(b"/bad", Route(Bad(), "/shop.Orders.v1/bad"))])
    answer = await http.get("/bad")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert set(answer.headers) == {"date", "content-type", "content-length", "x-request-id"}
    assert "/shop.Orders.v1/bad" in caplog.text
    assert bad[0].decode().partition("\r")[0] in caplog.text
    assert "stolen" not in caplog.text


@pytest.mark.parametrize("status", [0, 100, 101, 199, 600, 1000])
async def test_a_bad_status_of_an_answer_is_a_whole_500(here: Street, http: httpx.AsyncClient, status: int) -> None:
    class Bad(Probe):
        def answer(self, head: object, body: bytes) -> Response:
            return Response(status, (TEXT,), b"hello")

    here.app.table = RouteTable([(b"/bad", Route(Bad(), "/bad"))])
    assert (await http.get("/bad")).status_code == 500


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_none(here: Street, http: httpx.AsyncClient, status: int) -> None:
    class Bare(Probe):
        def answer(self, head: object, body: bytes) -> Response:
            return Response(status, (), b"a body that must not be sent")

    here.app.table = RouteTable([(b"/bare", Route(Bare(), "/bare"))])
    answer = await http.get("/bare")
    assert (answer.status_code, answer.content) == (status, b"")
    assert "content-length" not in answer.headers
    assert (await http.get("/bare")).status_code == status


async def test_a_handler_that_cannot_tell_its_errors(here: Street, http: httpx.AsyncClient) -> None:
    class Broken(Probe):
        def refuse(self, head: object, error: InsulaError) -> Response:
            raise RuntimeError("again")

    here.app.table = RouteTable([(b"/bad", Route(Broken(), "/bad"))])
    answer = await http.get("/bad?raise")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")


async def test_an_answer_that_never_comes_is_given_up(
    here: Street, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insula.edge.app.SLACK", 0.0)
    here.app.table = RouteTable([(b"/late", Route(here.probe, "/late", timeout=0.03))])
    answer = await http.get("/late?later")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert here.probe.pending[0].cancelled()


async def test_an_answer_that_is_cancelled_inside_is_still_answered(here: Street, http: httpx.AsyncClient) -> None:
    asking = asyncio.create_task(http.get("/echo?later"))
    await here.probe.asked.wait()
    here.probe.pending[0].cancel()
    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (499, "canceled")


async def test_requests_are_counted(here: Street, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    await http.post("/echo", content=b"12345")
    await http.get("/echo?raise")
    await http.get("/some/guess")
    await http.get("/another/guess")
    page = (await here.app.metrics.exposition()).decode()
    assert 'insula_http_requests_total{code="200",route="/echo"} 1.0' in page
    assert 'insula_http_requests_total{code="500",route="/echo"} 1.0' in page
    assert 'insula_http_requests_total{code="404",route="missing"} 2.0' in page
    assert 'insula_http_request_bytes_total{route="/echo"} 5.0' in page
    assert 'insula_http_request_seconds_count{route="/echo"} 2.0' in page
    assert "insula_http_requests_in_flight 0.0" in page
    assert "guess" not in page


async def test_json_of_a_refusal_is_whole_json(http: httpx.AsyncClient) -> None:
    assert json.loads((await http.get("/nowhere")).content)["error"]["code"] == "not_found"


async def test_a_route_that_leaves_while_it_answers_is_not_told_for_ever() -> None:
    async with street() as here:
        told = Told()
        pairs = list(told_table(told).exact.items())
        here.app.changed((), pairs)()
        reader, writer = await here.connect()
        writer.write(post(b"later 50"))
        await until(lambda: told.asked)
        assert "/do" in here.app.metrics.routes
        here.app.changed(pairs, ())()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await until(lambda: here.app.metrics.in_flight == 0)
        assert "/do" not in here.app.metrics.routes
        writer.close()
