"""What the admin API and the command line see of deployments."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec


class Step(msgspec.Struct, frozen=True):
    """One step of a deploy and its time in ms: `read`, `checked`, `compiled`, `ready`, and unless it is a plan `written`
    and `live`."""

    name: str
    ms: float


class Deployed(msgspec.Struct, frozen=True):
    """The answer to a deploy. `status` is `deployed`, `planned` or `started`; `endpoints` are the shortest paths that
    lead to it; `changes` says in plain words what is (or would be) different from what runs now."""

    service_id: str
    status: str
    endpoints: list[str]
    digest: str
    version: str
    source: str
    changes: list[str] = []
    steps: list[Step] = []


class Listed(msgspec.Struct, frozen=True):
    """One deployed service in the list. `deployed_at` is RFC 3339 in UTC; `version` is its author's; `last_error` is why it
    is stopped, or what an instance of it failed by last."""

    id: str
    source: str
    deployed_at: str
    state: str
    digest: str
    version: str
    last_error: str | None = None


class Method(msgspec.Struct, frozen=True):
    name: str
    endpoint: str
    input: str
    output: str
    read_only: bool
    authenticated: bool
    doc: str = ""


class Shown(Listed, frozen=True):
    """One deployed service in full. `limits` are those in force; `limits_from` says of each that is not the package's own
    where it comes from."""

    latest: bool = False
    endpoints: list[str] = []
    methods: list[Method] = []
    host_apis: list[str] = []
    grants: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    limits_from: dict[str, str] = {}
    instances: dict[str, int] = {}
    mailbox: dict[str, int] = {}
    previous: list[str] = []


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
