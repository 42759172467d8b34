"""A service package once it has been read: checked, parsed, and lying on disk under its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from insula.schema.model import Schema

MB = 1 << 20


class ServiceLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`limits` of okra.json, each with its bounds; what a package does not say is the default here."""

    memory_mb: int = 64
    timeout_ms: int = 5000
    max_instances: int = 8
    min_instances: int = 0
    mailbox: int = 256
    singleton: bool = False
    output_mb: int = 4


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
    """One package of the depot. `digest` is the sha256 (hex) of the `.okra.pkg`; `wasm` is a file, its digest beside it.

    `descriptor` is the FileDescriptorSet made from the schema, which is what the server speaks by; `migrations` are the
    package's SQL files in name order.
    """

    digest: str
    folder: Path
    config: PackageConfig
    schema: Schema
    wasm: Path
    wasm_digest: str
    descriptor: bytes
    migrations: tuple[str, ...] = ()
