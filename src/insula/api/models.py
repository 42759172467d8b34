"""The shapes of the admin API that are not the deployments' own: each is what is encoded or decoded, and what the OpenAPI
document describes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from insula.deployments.contract import Listed


class Health(msgspec.Struct, frozen=True):
    """Whether the server is up."""

    status: Annotated[str, Meta(description="`healthy`, or a word for why not", examples=["healthy"])]
    time: Annotated[str, Meta(description="RFC 3339, UTC", examples=["2026-01-31T12:00:00Z"])]


class Error(msgspec.Struct, frozen=True):
    """Every refusal and failure."""

    error: Annotated[str, Meta(description="the message", examples=["shop.Orders.v1 is deployed already"])]
    code: Annotated[str, Meta(description="one of the 16 codes of Connect and gRPC", examples=["already_exists"])]
    message: Annotated[str, Meta(description="what is wrong", examples=["shop.Orders.v1 is deployed already"])]
    hint: Annotated[str | None, Meta(description="what to do next", examples=["deploy it with override"])]
    reason: Annotated[str | UnsetType, Meta(description="a finer name below the code")] = UNSET


class DeployRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Which package to deploy."""

    source: Annotated[
        str,
        Meta(
            description="`file://`, `s3://` or `https://` URL, or `depot:sha256:…` for a package that is here already",
            examples=["file:///srv/packages/Orders-1.0.0.okra.pkg"],
        ),
    ]
    override: Annotated[bool, Meta(description="replace the service if it is deployed already")] = False
    plan: Annotated[bool, Meta(description="say what would change, and change nothing")] = False


class Services(msgspec.Struct, frozen=True):
    """Every deployed service, in the order of deployment."""

    services: list[Listed]
