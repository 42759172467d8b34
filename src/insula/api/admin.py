"""The admin API: its operations on the deployments, its routes, and its OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NoReturn

import msgspec

from insula.api import page
from insula.api.document import document
from insula.api.errors import JSON, refuse
from insula.api.models import DeployRequest, Health, Services
from insula.api.operations import MAX_SMALL, Asked, Operation, json_answer, routes
from insula.api.parts import AdminParts
from insula.api.upload import bounded, declared_length, whole
from insula.deployments.contract import Deployed, Shown
from insula.edge.admission import Rule
from insula.edge.app import Application
from insula.edge.exchange import Head, Response, Route
from insula.edge.local import Token, from_this_machine
from insula.edge.page import PAGE_HEADERS
from insula.edge.routes import RouteTable
from insula.edge.sharing import media_type
from insula.errors import CallerError, Code, InsulaError
from insula.times import rfc3339

HEALTH = "/api/v1/health"
GZIP = ("application/gzip", "application/x-gzip")
TITLE = "Insula admin API"
DESCRIPTION = """Deploy, look at and take away services of this Insula server.

Every error has the same body: `error`, `code`, `message`, `hint`. Where the server has an admin token, every route but
`/api/v1/health` needs it as `Authorization: Bearer …`; without one the port answers to this machine alone."""

_OVERRIDE = {"override": "replace the service if it is deployed already"}
_PLAN = {"plan": "say what would change, and change nothing"}


def admin_application(parts: AdminParts, *, token: str = "") -> Application:
    """The application of the admin port. With a `token` every path but the health asks for it; without one ("") Host and
    Origin are looked at, as only loopback is served then."""
    rule: Rule = Token(token, frozenset((HEALTH.encode(),))) if token else from_this_machine
    pairs = list(routes(operations(parts)))
    exact = [(path, route) for path, route in pairs if b"{" not in path]
    templates = [(path, route) for path, route in pairs if b"{" in path]
    missing = Route(Missing(), "missing", frozenset())
    return Application(RouteTable(exact, templates=templates), missing=missing, rules=(rule,))


class Missing:
    """Refuses what has no path."""

    def prepare(self, _: Head) -> NoReturn:
        """Always a 404."""
        hint = "GET / lists the routes of the admin port; services answer on the public port"
        raise CallerError("there is no such path", code=Code.NOT_FOUND, hint=hint)

    def refuse(self, head: Head, error: InsulaError) -> Response:
        """The error in the shape of the admin port."""
        return refuse(head, error)


def operations(parts: AdminParts) -> list[Operation]:
    """Every operation of the admin port."""
    every = [*_server(parts), *_packages(parts)]

    @cache
    def described() -> Response:
        made = document(every, (DeployRequest,), title=TITLE, version=parts.version, description=DESCRIPTION)
        return Response(200, (JSON,), msgspec.json.encode(made))

    api = Operation(
        method="GET", path="/openapi.json", summary="", run=lambda _: described(), tag="server", documented=False
    )
    return [*every, api]


def _server(parts: AdminParts) -> list[Operation]:
    def index(asked: Asked) -> Response:
        accept = asked.head.get(b"accept") or b""
        if page.wants_html(accept.decode("latin-1")):
            return Response(
                200, PAGE_HEADERS, page.as_html(parts.version, parts.public_url(), parts.deployments.list())
            )
        return json_answer(page.as_json(parts.version, parts.public_url()))

    def health(_: Asked) -> Response:
        status = parts.status()
        now = rfc3339(precision="seconds")
        return json_answer(Health(status, now), 200 if status == "healthy" else 503)

    made = [
        Operation(
            method="GET",
            path="/",
            summary="What this server is and where to look",
            tag="server",
            run=index,
            produces=("application/json", "text/html"),
        ),
        Operation(
            method="GET",
            path=HEALTH,
            summary="Whether the server is up",
            tag="server",
            run=health,
            answer=Health,
            unwell=True,
            public=True,
        ),
    ]
    health_of_parts, metrics_text = parts.health, parts.metrics
    if health_of_parts is not None:
        made.append(
            Operation(
                method="GET",
                path="/health",
                summary="The health of the server's parts",
                tag="server",
                run=lambda _: json_answer(health_of_parts()),
                produces=("application/json",),
            )
        )
    if metrics_text is not None:

        async def metrics(_: Asked) -> Response:
            kind = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
            return Response(200, (kind,), await metrics_text())

        summary = "Counters and times, as Prometheus reads them"
        made.append(
            Operation(
                method="GET", path="/metrics", summary=summary, tag="server", run=metrics, produces=("text/plain",)
            )
        )
    return made


def _packages(parts: AdminParts) -> list[Operation]:
    deployments = parts.deployments

    async def deploy(asked: Asked) -> Response:
        if media_type(asked.head.get(b"content-type")) != b"application/json":
            raise CallerError(
                "a deploy is JSON or a gzip package",
                status=415,
                hint='add -H "Content-Type: application/json", or for an upload -H "Content-Type: application/gzip"',
            )
        wanted = _deploy_request(await whole(asked.body, max_bytes=MAX_SMALL, timeout=parts.read_timeout))
        override, plan = _flags(asked.flags)
        return json_answer(
            await deployments.deploy(wanted.source, override=override or wanted.override, plan=plan or wanted.plan)
        )

    async def upload(asked: Asked) -> Response:
        length = asked.head.get(b"content-length")
        body = bounded(
            asked.body,
            max_bytes=parts.max_bytes,
            timeout=parts.read_timeout,
            declared=declared_length(None if length is None else length.decode("latin-1")),
        )
        override, plan = _flags(asked.flags)
        return json_answer(await deployments.upload(body, override=override, plan=plan))

    async def show(asked: Asked) -> Response:
        return json_answer(await deployments.show(asked.parts["service_id"]))

    async def undeploy(asked: Asked) -> Response:
        await deployments.undeploy(asked.parts["service_id"])
        return Response(204)

    async def rollback(asked: Asked) -> Response:
        _, plan = _flags(asked.flags)
        return json_answer(await deployments.rollback(asked.parts["service_id"], plan=plan))

    async def retry(asked: Asked) -> Response:
        return json_answer(await deployments.retry(asked.parts["service_id"]))

    one, deploys = "/api/v1/packages/{service_id}", "/api/v1/packages/deploy"
    return [
        Operation(
            method="GET",
            path="/api/v1/packages",
            summary="Every deployed service",
            run=lambda _: json_answer(Services(deployments.list())),
            answer=Services,
        ),
        Operation(
            method="POST",
            path=deploys,
            summary="Deploy a package",
            description="By its URL in a JSON body, or by uploading it: the package itself as an `application/gzip` body.",
            run=deploy,
            answer=Deployed,
            errors=(400, 403, 404, 408, 409, 413, 415, 429, 503, 507),
            flags=_OVERRIDE | _PLAN,
            body={
                "application/json": {"$ref": "#/components/schemas/DeployRequest"},
                GZIP[0]: {"type": "string", "format": "binary", "description": "a .okra.pkg file"},
            },
            changes=True,
            takes=frozenset((b"application/json",)),
        ),
        Operation(
            method="POST",
            path=deploys,
            summary="Upload a package",
            run=upload,
            flags=_OVERRIDE | _PLAN,
            changes=True,
            max_body=parts.max_bytes,
            bound="packages.max_bytes",
            takes=frozenset(kind.encode() for kind in GZIP),
            documented=False,
        ),
        Operation(method="GET", path=one, summary="One service in full", run=show, answer=Shown, errors=(400, 404)),
        Operation(
            method="DELETE",
            path=one,
            summary="Undeploy a service",
            description="Calls in flight end first; answers once the service is gone.",
            run=undeploy,
            status=204,
            errors=(400, 404, 409, 503),
            changes=True,
        ),
        Operation(
            method="POST",
            path=one + "/rollback",
            summary="Deploy the package before the present one",
            run=rollback,
            answer=Deployed,
            errors=(400, 404, 409, 503, 507),
            flags=_PLAN,
            changes=True,
        ),
        Operation(
            method="POST",
            path=one + "/retry",
            summary="Start a service that is stopped",
            description="One that did not start with the server, or that is not started any more because the server's "
            "process ended at it. Answers once it runs.",
            run=retry,
            answer=Deployed,
            errors=(400, 403, 404, 409, 429, 503, 507),
            changes=True,
        ),
    ]


def _flags(flags: Mapping[str, bool]) -> tuple[bool, bool]:
    return flags.get("override", False), flags.get("plan", False)


def _deploy_request(body: bytes) -> DeployRequest:
    try:
        return msgspec.json.decode(body, type=DeployRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CallerError(
            f"the body is not a deploy request: {error}",
            hint='{"source": "file:///path/to/NAME.okra.pkg", "override": false}',
        ) from None
