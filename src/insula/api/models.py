"""The shapes of the admin API for its OpenAPI document. Answers are written from the deployments' own structures, whose
fields these mirror; a test compares them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

_ID = "shop.Orders.v1"
_DIGEST = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class Health(BaseModel):
    """Whether the server is up."""

    status: str = Field(description="`healthy`, or a word for why not", examples=["healthy"])
    time: str = Field(description="RFC 3339, UTC", examples=["2026-01-31T12:00:00Z"])


class Error(BaseModel):
    """Every refusal and failure."""

    error: str = Field(description="the message", examples=["shop.Orders.v1 is deployed already"])
    code: str = Field(description="one of the 16 codes of Connect and gRPC", examples=["already_exists"])
    message: str = Field(description="what is wrong", examples=["shop.Orders.v1 is deployed already"])
    hint: str | None = Field(description="what to do next", examples=["deploy it with override"])
    reason: str | None = Field(default=None, description="a finer name below the code")


class DeployRequest(BaseModel):
    """Which package to deploy."""

    source: str = Field(
        description="`file://`, `s3://` or `https://` URL, or `depot:sha256:…` for a package that is here already",
        examples=["file:///srv/packages/Orders-1.0.0.okra.pkg"],
    )
    override: bool = Field(default=False, description="replace the service if it is deployed already")
    plan: bool = Field(default=False, description="say what would change, and change nothing")


class Step(BaseModel):
    """One step of a deploy."""

    name: str = Field(examples=["compiled"])
    ms: float = Field(description="how long it took", examples=[41.5])


class Deployed(BaseModel):
    """The answer to a deploy, a rollback or a retry."""

    service_id: str = Field(examples=[_ID])
    status: Literal["deployed", "planned", "started"]
    endpoints: list[str] = Field(
        description="the path of each method; with the version in it where another version is the latest",
        examples=[["/shop.Orders/place"]],
    )
    digest: str = Field(description="of the package: sha256: and 64 hexadecimal digits", examples=[_DIGEST])
    version: str = Field(description="version of the package", examples=["1.0.0"])
    source: str
    changes: list[str] = Field(description="what is, or would be, different from what runs now, in plain words")
    steps: list[Step]


class Listed(BaseModel):
    """One deployed service in the list."""

    id: str = Field(examples=[_ID])
    source: str
    deployed_at: str = Field(description="RFC 3339, UTC", examples=["2026-01-31T12:00:00Z"])
    state: str = Field(description="starting, ready, degraded, draining or stopped", examples=["ready"])
    digest: str = Field(examples=[_DIGEST])
    version: str = Field(examples=["1.0.0"])
    last_error: str | None = Field(description="why it is stopped, or what an instance of it failed by last")


class Services(BaseModel):
    """Every deployed service, in the order of deployment."""

    services: list[Listed]


class Method(BaseModel):
    """One method of a service."""

    name: str
    endpoint: str = Field(examples=["/shop.Orders/place"])
    input: str
    output: str
    read_only: bool
    authenticated: bool
    doc: str


class Shown(Listed):
    """One deployed service in full."""

    latest: bool = Field(description="whether paths without a version lead here")
    endpoints: list[str]
    methods: list[Method]
    host_apis: list[str]
    grants: dict[str, Any]
    limits: dict[str, Any] = Field(description="the limits in force")
    limits_from: dict[str, str] = Field(description="where each comes from that is not the package's own")
    instances: dict[str, int]
    mailbox: dict[str, int]
    previous: list[str] = Field(description="digests that a rollback goes back to, nearest first")
