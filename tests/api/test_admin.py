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
from fastapi.openapi.models import OpenAPI

from insula.api.admin import admin_application
from insula.api.parts import AdminParts
from insula.deployments import contract
from insula.edge.app import Application
from tests.api.deployments_in_memory import DeploymentsInMemory

PACKAGE = b"\x1f\x8b" + bytes(2000)
GZIP = {"content-type": "application/gzip"}


@pytest.fixture
def deployments() -> DeploymentsInMemory:
    return DeploymentsInMemory()


def app(deployments: DeploymentsInMemory, **parts: Any) -> Application:
    settings: dict[str, Any] = {"version": "1.2.3", "max_bytes": 100_000, "read_timeout": 5.0} | parts
    return admin_application(AdminParts(deployments=deployments, **settings))


def client_of(application: Application, **options: Any) -> httpx.AsyncClient:
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
    assert wrong.headers["allow"] == "GET, HEAD, OPTIONS"
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
async def test_the_document_has_the_contract(client: httpx.AsyncClient, name: str) -> None:
    """Each field of what is answered is described, with all that an answer always has."""
    schema = (await client.get("/openapi.json")).json()["components"]["schemas"][name]
    struct = getattr(contract, name)
    assert list(schema["properties"]) == list(struct.__struct_fields__)
    assert schema["description"]
    assert schema["required"] == list(schema["properties"])
    assert "\n" not in schema["description"]


async def test_each_operation_is_told_apart_in_the_document(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    each = [one for operations in document["paths"].values() for one in operations.values()]
    assert len({one["operationId"] for one in each}) == len(each)
    assert all(one["summary"] and one["tags"] for one in each)
    [part] = document["paths"]["/api/v1/packages/{service_id}"]["get"]["parameters"]
    assert (part["in"], part["required"], part["schema"]["examples"]) == ("path", True, ["shop.Orders.v1"])
    health = document["paths"]["/api/v1/health"]["get"]
    assert (health["security"], set(health["responses"])) == ([], {"200", "503"})
    assert set(document["components"]["schemas"]["Error"]["required"]) == {"error", "code", "message", "hint"}
    assert OpenAPI.model_validate(document).model_dump(by_alias=True, exclude_none=True)["info"] == document["info"]
    assert document["components"]["schemas"]["DeployRequest"]["required"] == ["source"]


ERRORS = [
    (
        ("GET", "/nowhere", {}, b""),
        404,
        b'{"error":"there is no such path","code":"not_found","message":"there is no such path","hint":"GET / lists the '
        b'routes of the admin port; services answer on the public port"}',
    ),
    (
        ("POST", "/api/v1/packages/deploy?override=perhaps", GZIP, PACKAGE),
        400,
        b'{"error":"query.override: Input should be a valid boolean, unable to interpret input","code":"invalid_argument",'
        b'"message":"query.override: Input should be a valid boolean, unable to interpret input",'
        b'"hint":"/openapi.json describes every parameter"}',
    ),
    (
        ("GET", "/api/v1/packages/" + "x" * 257, {}, b""),
        400,
        b'{"error":"path.service_id: String should have at most 256 characters","code":"invalid_argument",'
        b'"message":"path.service_id: String should have at most 256 characters",'
        b'"hint":"/openapi.json describes every parameter"}',
    ),
    (
        ("POST", "/api/v1/packages/deploy", {"content-type": "application/json"}, bytes(70_000)),
        413,
        b'{"error":"the body is larger than the 65536 bytes that it may have here","code":"resource_exhausted",'
        b'"message":"the body is larger than the 65536 bytes that it may have here","hint":null}',
    ),
    (
        ("POST", "/api/v1/packages/deploy", GZIP, bytes(100_001)),
        413,
        b'{"error":"the body is larger than packages.max_bytes allows, 100000 bytes","code":"resource_exhausted",'
        b'"message":"the body is larger than packages.max_bytes allows, 100000 bytes",'
        b'"hint":"send less at once, or raise packages.max_bytes","reason":"max_bytes"}',
    ),
    (
        ("GET", "/", {"origin": "http://evil.example"}, b""),
        403,
        b'{"error":"a web page of another origin may not use this port","code":"permission_denied",'
        b'"message":"a web page of another origin may not use this port",'
        b'"hint":"start the server with INSULA_ADMIN__TOKEN set and send the token","reason":"bad_origin"}',
    ),
]


@pytest.mark.parametrize(("request_", "status", "body"), ERRORS)
async def test_errors_byte_for_byte(
    client: httpx.AsyncClient, request_: tuple[str, str, dict[str, str], bytes], status: int, body: bytes
) -> None:
    method, path, headers, content = request_
    answer = await client.request(method, path, headers=headers, content=content)
    assert (answer.status_code, answer.content) == (status, body)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


async def test_one_address_with_and_without_a_slash_and_for_every_method(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/packages/")).json() == {"services": []}
    assert (await client.head("/api/v1/packages")).status_code == 200
    for method in ("GET", "DELETE"):
        wrong = await client.request(method, "/api/v1/packages/deploy")
        refused(wrong, 405, "unimplemented")
        assert wrong.headers["allow"] == "OPTIONS, POST"
    wrong = await client.put("/api/v1/packages/a.B.v1")
    assert wrong.headers["allow"] == "DELETE, GET, HEAD, OPTIONS"


async def test_a_change_goes_on_without_its_client(deployments: DeploymentsInMemory) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    sound = deployments.undeploy

    async def slow(service_id: str) -> None:
        begun.set()
        await go_on.wait()
        await sound(service_id)

    deployments.undeploy = slow  # type: ignore[method-assign]
    await deployments.deploy("file:///a")
    application = app(deployments)
    scope = {
        "type": "http",
        "method": "DELETE",
        "path": "/api/v1/packages/shop.Orders.v1",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "scheme": "http",
        "http_version": "1.1",
        "client": ("127.0.0.1", 1),
    }

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def unheard(_: Any) -> None:
        pass

    asked = asyncio.create_task(application(scope, gone, unheard))
    await begun.wait()
    go_on.set()
    await asked
    assert deployments.services == {}


async def test_the_server_starts_without_what_it_does_not_need() -> None:
    script = """
import sys
import insula.assembly
print(sorted({name.partition(".")[0] for name in sys.modules} & {"fastapi", "starlette", "pydantic"}))
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


async def test_a_server_that_is_not_healthy_says_so(deployments: DeploymentsInMemory) -> None:
    async with client_of(app(deployments, status=lambda: "draining")) as client:
        answer = await client.get("/api/v1/health")
    assert answer.status_code == 503
    assert answer.json()["status"] == "draining"
    assert answer.json()["time"].endswith("Z")
