"""The admin API as a FastAPI application: routes -> deployments, and its OpenAPI document.

Imported at the first request that needs it (`lazy.py`), as FastAPI takes longer to import than the rest of the server to
start. Answers are encoded from the deployments' own structures; the models are there for the document.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from insula.api import models, page
from insula.api.answers import health_answer, unforeseen
from insula.api.parts import AdminParts
from insula.api.upload import bounded, declared_length, whole
from insula.calls import MAX_NAME
from insula.edge.admin_errors import error_body, error_headers
from insula.edge.page import PAGE_HEADERS
from insula.errors import CallerError, Code, InsulaError

JSON = "application/json"
GZIP = ("application/gzip", "application/x-gzip")
MAX_JSON = 65_536

DESCRIPTION = """Deploy, look at and take away services of this Insula server.

Every error has the same body: `error`, `code`, `message`, `hint`. Where the server has an admin token, every route but
`/api/v1/health` needs it as `Authorization: Bearer …`; without one the port answers to this machine alone."""


class DeployBody(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON body of a deploy."""

    source: str
    override: bool = False
    plan: bool = False


ServiceIdPath = Annotated[
    str, Path(max_length=MAX_NAME, description="full id of a service", examples=["shop.Orders.v1"])
]
PlanQuery = Annotated[bool, Query(description="say what would change, and change nothing")]
OverrideQuery = Annotated[bool, Query(description="replace the service if it is deployed already")]


def build(parts: AdminParts) -> FastAPI:
    """The application. Its OpenAPI document is made here too, so that no request waits for it."""
    app = FastAPI(
        title="Insula admin API", version=parts.version, description=DESCRIPTION, docs_url=None, redoc_url=None
    )
    _errors(app)
    _status_routes(app, parts)
    _package_routes(app, parts)
    _document(app)
    return app


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, {"cache-control": "no-store"}, media_type=JSON)


def _refuse(error: InsulaError) -> Response:
    return Response(error_body(error), error.http_status, error_headers(error), media_type=JSON)


def _errors(app: FastAPI) -> None:
    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, InsulaError)
        return _refuse(error)

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _refuse(CallerError(f"{where}: {first['msg']}", hint="/openapi.json describes every parameter"))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        hint = "GET / lists the routes of the admin port; services answer on the public port"
        if error.status_code == 405:
            allow = (error.headers or {}).get("Allow", "")
            response = _refuse(
                CallerError(
                    f"{request.method} is not a method of this path",
                    code=Code.UNIMPLEMENTED,
                    status=405,
                    hint=f"it takes {allow}" if allow else hint,
                )
            )
            if allow:
                response.headers["allow"] = allow
            return response
        return _refuse(
            CallerError("there is no such path", code=Code.NOT_FOUND, status=error.status_code, hint=hint)
            if error.status_code == 404
            else CallerError(str(error.detail), status=error.status_code)
        )

    async def broken(_request: Request, _error: Exception) -> Response:
        return _refuse(unforeseen())

    app.add_exception_handler(Exception, broken)
    app.add_exception_handler(InsulaError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _status_routes(app: FastAPI, parts: AdminParts) -> None:
    deployments = parts.deployments

    @app.get("/", summary="What this server is and where to look", tags=["server"])
    async def index(request: Request) -> Response:
        if page.wants_html(request.headers.get("accept", "")):
            html = page.as_html(parts.version, parts.public_url(), deployments.list())
            return Response(html, headers={name.decode(): value.decode() for name, value in PAGE_HEADERS})
        return _json(page.as_json(parts.version, parts.public_url()))

    @app.get(
        "/api/v1/health",
        summary="Whether the server is up",
        tags=["server"],
        response_model=None,
        responses={200: {"model": models.Health}, 503: {"model": models.Health}},
        openapi_extra={"security": []},
    )
    async def health() -> Response:
        status, body = health_answer(parts)
        return Response(body, status, {"cache-control": "no-store"}, media_type=JSON)

    health_body = parts.health
    if health_body is not None:

        @app.get("/health", summary="The health of the server's parts", tags=["server"], response_model=None)
        async def parts_health() -> Response:
            return _json(health_body())

    metrics_text = parts.metrics
    if metrics_text is not None:

        @app.get("/metrics", summary="Counters and times, as Prometheus reads them", tags=["server"])
        async def metrics() -> Response:
            return Response(await metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _answers(model: type[Any], *codes: int) -> dict[int | str, dict[str, Any]]:
    texts = {
        400: "Not a package, or a wrong request",
        403: "The package asks for more than is granted",
        404: "No such source or service",
        408: "The package did not come in time",
        409: "Deployed already, or another change of it is under way",
        413: "Too large",
        415: "Neither JSON nor gzip",
        429: "No instance of it can be started now: the guests have all the memory that is theirs",
        503: "The server is starting or stopping",
        507: "No room",
    }
    return {
        200: {"model": model},
        **{code: {"model": models.Error, "description": texts[code]} for code in codes},
    }


def _package_routes(app: FastAPI, parts: AdminParts) -> None:
    deployments = parts.deployments

    @app.get(
        "/api/v1/packages",
        summary="Every deployed service",
        tags=["packages"],
        response_model=None,
        responses={200: {"model": models.Services}},
    )
    async def list_services() -> Response:
        return _json({"services": deployments.list()})

    @app.post(
        "/api/v1/packages/deploy",
        summary="Deploy a package",
        description="By its URL in a JSON body, or by uploading it: the package itself as an `application/gzip` body.",
        tags=["packages"],
        response_model=None,
        responses=_answers(models.Deployed, 400, 403, 404, 408, 409, 413, 415, 429, 503, 507),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    JSON: {"schema": {"$ref": "#/components/schemas/DeployRequest"}},
                    GZIP[0]: {"schema": {"type": "string", "format": "binary", "description": "a .okra.pkg file"}},
                },
            }
        },
    )
    async def deploy(request: Request, override: OverrideQuery = False, plan: PlanQuery = False) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == JSON:
            wanted = _deploy_body(await whole(_connected(request), max_bytes=MAX_JSON, timeout=parts.read_timeout))
            done = await deployments.deploy(
                wanted.source, override=override or wanted.override, plan=plan or wanted.plan
            )
        elif kind in GZIP:
            body = bounded(
                _connected(request),
                max_bytes=parts.max_bytes,
                timeout=parts.read_timeout,
                declared=declared_length(request.headers.get("content-length")),
            )
            done = await deployments.upload(body, override=override, plan=plan)
        else:
            raise CallerError(
                "a deploy is JSON or a gzip package",
                status=415,
                hint='add -H "Content-Type: application/json", or for an upload -H "Content-Type: application/gzip"',
            )
        return _json(done)

    @app.get(
        "/api/v1/packages/{service_id}",
        summary="One service in full",
        tags=["packages"],
        response_model=None,
        responses=_answers(models.Shown, 400, 404),
    )
    async def show(service_id: ServiceIdPath) -> Response:
        return _json(await deployments.show(service_id))

    @app.delete(
        "/api/v1/packages/{service_id}",
        summary="Undeploy a service",
        description="Calls in flight end first; answers once the service is gone.",
        tags=["packages"],
        status_code=204,
        response_model=None,
        responses={204: {"description": "It is gone"}, **_errors_of(400, 404, 409, 503)},
    )
    async def undeploy(service_id: ServiceIdPath) -> Response:
        await deployments.undeploy(service_id)
        return Response(status_code=204)

    @app.post(
        "/api/v1/packages/{service_id}/rollback",
        summary="Deploy the package before the present one",
        tags=["packages"],
        response_model=None,
        responses=_answers(models.Deployed, 400, 404, 409, 503, 507),
    )
    async def rollback(service_id: ServiceIdPath, plan: PlanQuery = False) -> Response:
        return _json(await deployments.rollback(service_id, plan=plan))

    @app.post(
        "/api/v1/packages/{service_id}/retry",
        summary="Start a service that is stopped",
        description="One that did not start with the server, or that is not started any more because the server's process "
        "ended at it. Answers once it runs.",
        tags=["packages"],
        response_model=None,
        responses=_answers(models.Deployed, 400, 403, 404, 409, 429, 503, 507),
    )
    async def retry(service_id: ServiceIdPath) -> Response:
        return _json(await deployments.retry(service_id))


def _errors_of(*codes: int) -> dict[int | str, dict[str, Any]]:
    answers = _answers(models.Error, *codes)
    del answers[200]
    return answers


def _deploy_body(body: bytes) -> DeployBody:
    try:
        return msgspec.json.decode(body, type=DeployBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CallerError(
            f"the body is not a deploy request: {error}",
            hint='{"source": "file:///path/to/NAME.okra.pkg", "override": false}',
        ) from None


async def _connected(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect:
        raise CallerError("the client left before its request was whole", code=Code.CANCELED) from None


def _document(app: FastAPI) -> None:
    """The OpenAPI document: made once, with the token, the upload's JSON model, and without the 422 that is never sent."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=None
    )
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["DeployRequest"] = models.DeployRequest.model_json_schema()
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}, {}]
    app.openapi = lambda: document  # type: ignore[method-assign]
