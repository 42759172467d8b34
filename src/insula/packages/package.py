"""An okra package once it has been read: checked, parsed, and lying on disk under its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from insula.calls import ServiceId
from insula.packages.deployable import ServiceLimits
from insula.schema.model import Schema


class PackageConfig(msgspec.Struct, frozen=True):
    """okra.json. Keys of other tools that mean nothing here are kept out of the way, not refused; `limits` and
    `grants` are ours and strict."""

    name: str
    version: str
    language: str = ""
    schema: str = ""
    source: str = ""
    build: Mapping[str, Any] = {}
    dev: Mapping[str, Any] = {}
    host_apis: tuple[str, ...] = ()
    grants: Mapping[str, Mapping[str, Any]] = {}
    limits: ServiceLimits = ServiceLimits()


@dataclass(frozen=True, slots=True)
class Package:
    """One package that has been read. `digest` is the sha256 (hex) of the `.okra.pkg`; `wasm` is a file, its digest
    beside it.

    `descriptor` is the FileDescriptorSet made from the schema, which is what the server speaks by; `migrations` are the
    names of the SQL files in `folder/migrations`, in the order in which they are run (by name).
    """

    digest: str
    folder: Path
    config: PackageConfig
    schema: Schema
    wasm: Path
    wasm_digest: str
    descriptor: bytes
    migrations: tuple[str, ...] = ()

    @property
    def service_id(self) -> ServiceId:
        """`{namespace}.{ServiceName}.{version}`, from the schema."""
        return ServiceId(self.schema.namespace, self.schema.service.name, self.schema.version)
