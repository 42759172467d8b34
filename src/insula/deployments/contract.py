"""What the admin API and the command line see of deployments. The structs are what is answered; what `Meta` says of their
fields is in the API's OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Protocol, TypeAlias

import msgspec
from msgspec import Meta

_Id: TypeAlias = Annotated[str, Meta(examples=["shop.Orders.v1"])]
_Path: TypeAlias = Annotated[str, Meta(examples=["/shop.Orders/place"])]
_Version: TypeAlias = Annotated[str, Meta(description="version of the package", examples=["1.0.0"])]
_Digest: TypeAlias = Annotated[
    str,
    Meta(
        description="of the package: sha256: and 64 hexadecimal digits",
        examples=["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    ),
]


class Step(msgspec.Struct, frozen=True):
    """One step of a deploy and its time in ms: `read`, `checked`, `compiled`, `ready`, and unless it is a plan `written`
    and `live`."""

    name: Annotated[str, Meta(examples=["compiled"])]
    ms: Annotated[float, Meta(description="how long it took", examples=[41.5])]


class Deployed(msgspec.Struct, frozen=True):
    """The answer to a deploy. `status` is `deployed`, `planned` or `started`; `endpoints` are the shortest paths that
    lead to it; `changes` says in plain words what is (or would be) different from what runs now."""

    service_id: _Id
    status: Annotated[str, Meta(extra_json_schema={"enum": ["deployed", "planned", "started"]})]
    endpoints: Annotated[
        list[_Path],
        Meta(description="the path of each method; with the version in it where another version is the latest"),
    ]
    digest: _Digest
    version: _Version
    source: str
    changes: Annotated[
        list[str], Meta(description="what is, or would be, different from what runs now, in plain words")
    ] = []
    steps: list[Step] = []


class Listed(msgspec.Struct, frozen=True):
    """One deployed service in the list. `deployed_at` is RFC 3339 in UTC; `version` is its author's; `last_error` is why it
    is stopped, or what an instance of it failed by last."""

    id: _Id
    source: str
    deployed_at: Annotated[str, Meta(description="RFC 3339, UTC", examples=["2026-01-31T12:00:00Z"])]
    state: Annotated[str, Meta(description="starting, ready, degraded, draining or stopped", examples=["ready"])]
    digest: _Digest
    version: _Version
    last_error: Annotated[
        str | None, Meta(description="why it is stopped, or what an instance of it failed by last")
    ] = None


class Method(msgspec.Struct, frozen=True):
    """One method of a service."""

    name: str
    endpoint: _Path
    input: str
    output: str
    read_only: bool
    authenticated: bool
    doc: str = ""


class Shown(Listed, frozen=True):
    """One deployed service in full. `limits` are those in force; `limits_from` says of each that is not the package's own
    where it comes from."""

    latest: Annotated[bool, Meta(description="whether paths without a version lead here")] = False
    endpoints: list[_Path] = []
    methods: list[Method] = []
    host_apis: list[str] = []
    grants: dict[str, Any] = {}
    limits: Annotated[dict[str, Any], Meta(description="the limits in force")] = {}
    limits_from: Annotated[dict[str, str], Meta(description="where each comes from that is not the package's own")] = {}
    instances: dict[str, int] = {}
    mailbox: dict[str, int] = {}
    previous: Annotated[list[str], Meta(description="digests that a rollback goes back to, nearest first")] = []


class Deployments(Protocol):
    """Desired state and the way to change it. Errors: PackageError 400, CallerError 404 (no such source or service),
    409 (exists, or another deploy of it is under way), 403 (asks for more than is granted), 413, 507; 503 while the server
    starts (but for what looks, `undeploy` and `retry`) or stops."""

    async def deploy(self, source: str, *, override: bool = False, plan: bool = False) -> Deployed:
        """Deploys a `file://`, `s3://`, `https://` or `depot:sha256:…` source."""

    async def upload(self, body: AsyncIterator[bytes], *, override: bool = False, plan: bool = False) -> Deployed:
        """Deploys a package that comes as a stream; its source becomes `upload:sha256:…`."""

    def list(self) -> list[Listed]:
        """Every deployed service, in the order of deployment."""

    async def show(self, service_id: str) -> Shown:
        """One in full; 404 where it is not deployed."""

    async def undeploy(self, service_id: str) -> None:
        """Drains and removes it; returns once it is gone."""

    async def rollback(self, service_id: str, *, plan: bool = False) -> Deployed:
        """Deploys the digest before the present one; 409 `failed_precondition` where there is none."""

    async def retry(self, service_id: str) -> Deployed:
        """Starts one that is shown as stopped; 409 `failed_precondition` where it is not. Its errors are those of a
        deploy."""
