"""The admin API over ASGI: every route, every refusal in one shape, and the document that describes them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from insula.api import models
from insula.api.lazy import AdminApp
from insula.api.parts import AdminParts
from insula.deployments import contract
from tests.api.deployments_in_memory import DeploymentsInMemory

PACKAGE = b"\x1f\x8b" + bytes(2000)
GZIP = {"content-type": "application/gzip"}


@pytest.fixture
def deployments() -> DeploymentsInMemory:
    return DeploymentsInMemory()


def app(deployments: DeploymentsInMemory, **parts: Any) -> AdminApp:
    settings: dict[str, Any] = {"version": "1.2.3", "max_bytes": 100_000, "read_timeout": 5.0} | parts
    return AdminApp(AdminParts(deployments=deployments, **settings))


def client_of(application: AdminApp, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=application)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8081", **options)


@pytest.fixture
async def client(deployments: DeploymentsInMemory) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app(deployments)) as client:
        yield client


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert response.status_code == status, body
    assert body["code"] == code
    assert body["error"] == body["message"]
    assert "hint" in body
    return body


async def test_the_whole_life_of_a_service(client: httpx.AsyncClient) -> None:
    source = "file:///srv/Orders-1.0.0.okra.pkg"
    deployed = await client.post("/api/v1/packages/deploy", json={"source": source, "override": False})
    assert deployed.status_code == 200
    assert deployed.json()["service_id"] == "shop.Orders.v1"
    assert deployed.json()["status"] == "deployed"
    assert deployed.json()["endpoints"] == ["/shop.Orders/place"]

    (listed,) = (await client.get("/api/v1/packages")).json()["services"]
    assert (listed["id"], listed["source"], listed["deployed_at"]) == ("shop.Orders.v1", source, "2026-01-31T12:00:00Z")
    assert {"state", "digest", "version"} <= set(listed)

    refused(await client.post("/api/v1/packages/deploy", json={"source": source}), 409, "already_exists")
    again = await client.post("/api/v1/packages/deploy?override=true", headers=GZIP, content=PACKAGE)
    assert again.json()["source"].startswith("upload:sha256:")

    shown = (await client.get("/api/v1/packages/shop.Orders.v1")).json()
    assert shown["methods"][0]["endpoint"] == "/shop.Orders/place"
    assert shown["previous"] == [listed["digest"]]

    back = await client.post("/api/v1/packages/shop.Orders.v1/rollback")
    assert back.json()["digest"] == listed["digest"]
    refused(await client.post("/api/v1/packages/shop.Orders.v1/rollback"), 409, "failed_precondition")

    gone = await client.delete("/api/v1/packages/shop.Orders.v1")
    assert (gone.status_code, gone.content) == (204, b"")
    refused(await client.delete("/api/v1/packages/shop.Orders.v1"), 404, "not_found")
    refused(await client.get("/api/v1/packages/shop.Orders.v1"), 404, "not_found")


async def test_a_retry_starts_what_is_stopped(client: httpx.AsyncClient, deployments: DeploymentsInMemory) -> None:
    retry = "/api/v1/packages/shop.Orders.v1/retry"
    refused(await client.post(retry), 404, "not_found")
    await client.post("/api/v1/packages/deploy", json={"source": "file:///a.okra.pkg"})
    refused(await client.post(retry), 409, "failed_precondition")
    deployments.stop("shop.Orders.v1", "it ended the server")
    (listed,) = (await client.get("/api/v1/packages")).json()["services"]
    assert (listed["state"], listed["last_error"]) == ("stopped", "it ended the server")
    done = await client.post(retry)
    assert (done.status_code, done.json()["status"]) == (200, "started")
    assert (await client.get("/api/v1/packages")).json()["services"][0]["last_error"] is None


@pytest.mark.parametrize("how", ["query", "body"])
async def test_a_plan_changes_nothing(client: httpx.AsyncClient, how: str) -> None:
    body = {"source": "file:///a.okra.pkg"} | ({"plan": True} if how == "body" else {})
    query = {"plan": "true"} if how == "query" else {}
    planned = await client.post("/api/v1/packages/deploy", params=query, json=body)
    assert planned.json()["status"] == "planned"
    assert (await client.get("/api/v1/packages")).json() == {"services": []}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "deploy request"),
        (b"{", "deploy request"),
        (b"[]", "deploy request"),
        (b"{}", "source"),
        (b'{"source": 3}', "source"),
        (b'{"source": "file:///a", "overide": true}', "overide"),
        (b'{"source": "\xff"}', "deploy request"),
        (b"[" * 20_000, "deploy request"),
    ],
)
async def test_a_wrong_deploy_body_is_400(client: httpx.AsyncClient, body: bytes, says: str) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    answer = await client.post("/api/v1/packages/deploy", headers=headers, content=body)
    assert says in refused(answer, 400, "invalid_argument")["message"]


async def test_wrong_requests_have_the_same_shape(client: httpx.AsyncClient) -> None:
    deploy = "/api/v1/packages/deploy"
    refused(await client.post(f"{deploy}?override=perhaps", headers=GZIP, content=PACKAGE), 400, "invalid_argument")
    refused(await client.post(deploy, content=b"source=x"), 415, "invalid_argument")
    refused(await client.post(deploy, headers=GZIP, content=b"PK\x03\x04"), 400, "invalid_argument")
    refused(await client.post(deploy, headers=GZIP, content=b""), 400, "invalid_argument")
    refused(await client.post(deploy, json={"source": "file:///none.okra.pkg"}), 404, "not_found")
    refused(await client.get("/api/v2/packages"), 404, "not_found")
    refused(await client.get(f"/api/v1/packages/{'x' * 300}"), 400, "invalid_argument")
    wrong = await client.put("/api/v1/packages")
    refused(wrong, 405, "unimplemented")
    assert wrong.headers["allow"] == "GET"
    too_much = {"content-type": "application/json"}
    refused(await client.post(deploy, headers=too_much, content=bytes(70_000)), 413, "resource_exhausted")


async def test_a_large_upload_is_refused_by_its_length_and_by_its_bytes(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield PACKAGE[:1000]

    refused(
        await client.post("/api/v1/packages/deploy", headers=GZIP, content=PACKAGE * 100), 413, "resource_exhausted"
    )
    refused(await client.post("/api/v1/packages/deploy", headers=GZIP, content=endless()), 413, "resource_exhausted")
    assert sent < 150_000


async def test_a_slow_upload_is_given_up(deployments: DeploymentsInMemory) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield PACKAGE
        await asyncio.Event().wait()

    async with client_of(app(deployments, read_timeout=0.05)) as client:
        answer = await client.post("/api/v1/packages/deploy", headers=GZIP, content=stuck())
    refused(answer, 408, "deadline_exceeded")


async def test_what_nobody_foresaw_tells_the_client_nothing(
    client: httpx.AsyncClient, deployments: DeploymentsInMemory, caplog: pytest.LogCaptureFixture
) -> None:
    deployments.broken = True
    answer = await client.post("/api/v1/packages/deploy", json={"source": "file:///a"})
    refused(answer, 500, "internal")
    assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text


async def test_the_front_page_is_a_page_or_json(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).json()["version"] == "1.2.3"
    html = await client.get("/", headers={"accept": "text/html,*/*"})
    assert html.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in html.headers["content-security-policy"]


async def test_health_and_metrics_come_from_the_server(deployments: DeploymentsInMemory) -> None:
    async def metrics() -> bytes:
        return b"insula_up 1\n"

    application = app(deployments, metrics=metrics, health=lambda: {"status": "ok"})
    async with client_of(application) as client:
        assert (await client.get("/metrics")).text == "insula_up 1\n"
        assert (await client.get("/health")).json() == {"status": "ok"}
    async with client_of(app(deployments)) as client:
        refused(await client.get("/metrics"), 404, "not_found")


async def test_the_document_describes_every_route_and_resolves(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    routes = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert routes == {
        ("get", "/"),
        ("get", "/api/v1/health"),
        ("get", "/api/v1/packages"),
        ("post", "/api/v1/packages/deploy"),
        ("get", "/api/v1/packages/{service_id}"),
        ("delete", "/api/v1/packages/{service_id}"),
        ("post", "/api/v1/packages/{service_id}/rollback"),
        ("post", "/api/v1/packages/{service_id}/retry"),
    }
    deploy = document["paths"]["/api/v1/packages/deploy"]["post"]
    assert set(deploy["requestBody"]["content"]) == {"application/json", "application/gzip"}
    assert {"200", "400", "403", "404", "409", "413", "507"} <= set(deploy["responses"])
    text = json.dumps(document)
    assert not any("422" in one["responses"] for path in document["paths"].values() for one in path.values())
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]


@pytest.mark.parametrize("name", ["Step", "Deployed", "Listed", "Method", "Shown"])
def test_the_models_mirror_the_contract(name: str) -> None:
    assert list(getattr(models, name).model_fields) == list(getattr(contract, name).__struct_fields__)


async def test_health_is_answered_without_fastapi(deployments: DeploymentsInMemory) -> None:
    script = """
import asyncio, sys
from insula.api.lazy import AdminApp
from insula.api.parts import AdminParts
sent = []
async def main():
    app = AdminApp(AdminParts(deployments=None, version="1", max_bytes=1, read_timeout=1))
    async def send(message): sent.append(message)
    await app({"type": "http", "method": "GET", "path": "/api/v1/health", "headers": []}, None, send)
asyncio.run(main())
assert [one["status"] for one in sent[::2]] == [200], sent
assert b'"healthy"' in sent[1]["body"]
print(any(name.partition(".")[0] in ("fastapi", "starlette", "pydantic") for name in sys.modules))
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


async def test_a_server_that_is_not_healthy_says_so(deployments: DeploymentsInMemory) -> None:
    async with client_of(app(deployments, status=lambda: "draining")) as client:
        answer = await client.get("/api/v1/health")
    assert answer.status_code == 503
    assert answer.json()["status"] == "draining"
    assert answer.json()["time"].endswith("Z")
