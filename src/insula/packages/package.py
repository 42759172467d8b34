"""A service package once it has been read: checked, parsed, and lying on disk under its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from insula.calls import ServiceId
from insula.schema.model import Schema

MB = 1 << 20


class ServiceLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`limits` of okra.json; what a package does not say is the default here, what it may say is in `LIMIT_BOUNDS`.

    `memory_mb` of one instance, `timeout_ms` of one call, `output_mb` of one answer; `mailbox` calls may wait;
    `singleton` means one instance and never two, whatever `max_instances` says.
    """

    memory_mb: int = 64
    timeout_ms: int = 5000
    max_instances: int = 8
    min_instances: int = 0
    mailbox: int = 256
    singleton: bool = False
    output_mb: int = 4


#: The least and the most that each number of `limits` may be. `min_instances` also stays within `max_instances`.
LIMIT_BOUNDS: Mapping[str, tuple[int, int]] = {
    "memory_mb": (1, 4096),
    "timeout_ms": (1, 3_600_000),
    "max_instances": (1, 1024),
    "min_instances": (0, 1024),
    "mailbox": (1, 65_536),
    "output_mb": (1, 256),
}


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

    def endpoints(self, *, latest: bool) -> list[str]:
        """The shortest path of each method: `/{namespace}.{ServiceName}/{methodName}` where this is the latest version of
        its service, else with the version before the slash."""
        service = self.service_id.unversioned if latest else self.service_id
        return [f"/{service}/{method.name}" for method in self.schema.service.methods]
