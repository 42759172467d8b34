"""The sections of the settings: every key with its type, unit, bounds, default and the sentence that documents it.

What stands here is all there is: the loader refuses every other key, and docs/configuration.md is written from it.
Units are in the names: `_ms`, `_bytes`, `_mb`. Paths are resolved from the working directory by the loader.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from insula.settings.secret import Secret

MB = 1 << 20
Level = Literal["debug", "info", "warning", "error"]

#: A service, with its version or without: `shop.Orders`, `shop.Orders.v1`, `shop.Orders.1.0-rc`.
SERVICE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+(?:\.[A-Za-z0-9._-]{1,64})?")


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server listens and keeps its data."""

    profile: Annotated[
        Literal["insula", "rune", "tinywasm"],
        Meta(
            description="Changes defaults only. rune: port 3000 and apps_dir ./apps; tinywasm: port 6060 and modules.dir "
            "modules/dist."
        ),
    ] = "insula"
    host: Annotated[
        str, Meta(min_length=1, max_length=255, description="Address of the public port. 0.0.0.0 opens it to others.")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Public port; 0 takes any free one.")] = 8080
    admin_host: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=255,
            description="Address of the admin port. Anything but loopback needs admin.token.",
        ),
    ] = "127.0.0.1"
    admin_port: Annotated[int, Meta(ge=0, le=65535, description="Admin port; 0 takes any free one.")] = 8081
    data_dir: Annotated[
        Path,
        Meta(description="Folder of packages, compiled modules and the default database. One server at a time."),
    ] = Path("insula-data")
    apps_dir: Annotated[Path | None, Meta(description="Folder of .rune apps to serve.")] = None
    max_clients: Annotated[
        int, Meta(ge=1, le=100_000, description="JSON-RPC WebSocket clients at once; the next gets 503.")
    ] = 1000


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who may use the admin port."""

    token: Annotated[
        Secret | None,
        Meta(description="Bearer token of the admin port. None or empty: loopback only, with Host and Origin checks."),
    ] = None


class ServiceLimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The operator's limits of one service, over those of its package and of `[limits]`; what is not set is theirs."""

    memory_mb: Annotated[int, Meta(ge=1, le=4096)] | None = None
    timeout_ms: Annotated[int, Meta(ge=1, le=3_600_000)] | None = None
    max_instances: Annotated[int, Meta(ge=1, le=1024)] | None = None
    min_instances: Annotated[int, Meta(ge=0, le=1024)] | None = None
    mailbox: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    singleton: bool | None = None
    output_mb: Annotated[int, Meta(ge=1, le=256)] | None = None
    body_bytes: Annotated[int, Meta(ge=1024, le=1 << 31)] | None = None
    body_values: Annotated[int, Meta(ge=16, le=100_000_000)] | None = None


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on everything that comes in, and on the time that anything may take."""

    max_connections: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Connections of the public port at once; the next gets 503.")
    ] = 4096
    max_admin_connections: Annotated[
        int, Meta(ge=1, le=10_000, description="Connections of the admin port at once; the next gets 503.")
    ] = 128
    target_bytes: Annotated[
        int, Meta(ge=256, le=MB, description="Longest request target (path and query); longer is 414.")
    ] = 32_768
    header_bytes: Annotated[
        int, Meta(ge=1024, le=MB, description="Request line and headers together; more is 431.")
    ] = 65_536
    header_count: Annotated[int, Meta(ge=8, le=10_000, description="Headers of one request; more is 431.")] = 128
    header_timeout_ms: Annotated[
        int, Meta(ge=100, le=600_000, description="Time for a whole head to arrive; later is 408.")
    ] = 10_000
    body_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 31,
            description="Largest body of a call, after inflation too; more is resource_exhausted: 429 over Connect, 413 "
            "elsewhere.",
        ),
    ] = 4 * MB
    body_values: Annotated[
        int,
        Meta(
            ge=16,
            le=100_000_000,
            description="JSON values of a body, or of a guest's answer; or protobuf fields and items. More is "
            "resource_exhausted.",
        ),
    ] = 65_536
    services: Annotated[
        dict[str, ServiceLimitSettings],
        Meta(
            description='Other limits for one service, over its package\'s: {"shop.Orders" = {body_values = 200000}}. The '
            "keys are those of limits in okra.json, body_bytes and body_values. A full id, shop.Orders.v1, is stronger "
            "than the name without version, key by key."
        ),
    ] = {}
    codec_memory_mb: Annotated[
        int,
        Meta(
            ge=128,
            le=1 << 20,
            description="Memory (address space) of each of the two processes that read and write large bodies; a body that "
            "takes more is resource_exhausted.",
        ),
    ] = 512
    body_timeout_ms: Annotated[
        int, Meta(ge=100, le=3_600_000, description="Time for a whole body to arrive; later is 408.")
    ] = 30_000
    body_rate_bytes: Annotated[
        int, Meta(ge=1, le=1 << 30, description="Each so many bytes that came give a body one second more.")
    ] = 1024
    write_timeout_ms: Annotated[
        int,
        Meta(ge=100, le=3_600_000, description="A client that takes nothing of its answer for so long is cut off."),
    ] = 30_000
    keep_alive_ms: Annotated[
        int, Meta(ge=100, le=3_600_000, description="How long a connection may wait for its next request.")
    ] = 30_000
    request_timeout_ms: Annotated[
        int, Meta(ge=10, le=3_600_000, description="Longest that a call may take, whatever its package says.")
    ] = 60_000
    held_mb: Annotated[
        int,
        Meta(
            ge=8,
            le=1 << 20,
            description="MiB for each of four: bodies still arriving; large bodies worked on; jobs of the codec processes; "
            "unread answers with requests sent ahead. Where one is full, the slowest of the clients that hold most is cut "
            "off, or large requests are refused.",
        ),
    ] = 256
    guest_memory_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 24,
            description="Memory of all instances of all services together; 0: three quarters of what the machine, or the "
            "container, has. Near it idle instances are closed; at it none is started, and none may grow.",
        ),
    ] = 0
    shutdown_grace_ms: Annotated[
        int, Meta(ge=0, le=3_600_000, description="Time for calls in flight to end once the server is told to stop.")
    ] = 10_000
    drain_timeout_ms: Annotated[
        int,
        Meta(ge=0, le=3_600_000, description="Time for the calls of a service that is replaced or undeployed to end."),
    ] = 30_000
    worker_threads: Annotated[
        int, Meta(ge=0, le=1024, description="Threads that run guests; 0: one more than there are cores, at least 4.")
    ] = 0

    @property
    def threads(self) -> int:
        """`worker_threads`, with 0 made into a number."""
        return self.worker_threads or max(4, (os.cpu_count() or 1) + 1)


class StorageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The server's own truth: deployments and the state of services."""

    url: Annotated[
        Secret | None,
        Meta(description="sqlite:… or postgres://… (also DATABASE_URL). None: SQLite in the data folder."),
    ] = None


class PackageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a package may be, and what compiling it may take."""

    max_bytes: Annotated[int, Meta(ge=1024, le=1 << 32, description="Largest package file; more is 413.")] = 128 * MB
    max_memory_mb: Annotated[
        int,
        Meta(
            ge=1,
            le=4096,
            description="Most memory that a package may ask for, for each instance (limits.memory_mb of okra.json).",
        ),
    ] = 1024
    read_timeout_ms: Annotated[
        int, Meta(ge=100, le=3_600_000, description="Time for a whole package to be read or uploaded.")
    ] = 120_000
    compile_memory_mb: Annotated[
        int, Meta(ge=128, le=65_536, description="Memory of the process that compiles a module.")
    ] = 2048
    compile_timeout_ms: Annotated[
        int, Meta(ge=1000, le=3_600_000, description="Time that compiling a module may take.")
    ] = 60_000


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where `insula deploy` and the admin API may take packages from."""

    roots: Annotated[
        tuple[Path, ...],
        Meta(description="Folders that file:// may read. Empty: any on a loopback admin port, none on another."),
    ] = ()
    allow_private: Annotated[
        bool, Meta(description="Whether https:// may reach private, loopback and link-local addresses.")
    ] = False
    allow_http: Annotated[
        bool, Meta(description="Whether packages may come over http://, where anybody between may change them.")
    ] = False


class GrantSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which host APIs a package may ask for; one that asks for more is refused at deploy."""

    default: Annotated[tuple[str, ...], Meta(description="Host APIs that every package may ask for.")] = (
        "okra.log",
        "okra.time",
        "okra.state",
        "okra.cache",
        "okra.metrics",
        "okra.call",
    )
    allow: Annotated[
        dict[str, tuple[str, ...]],
        Meta(
            description='More for one service, or with "*" for all: {"shop.Orders" = ["okra.env"]}. A full id, '
            "shop.Orders.v1, means that version alone."
        ),
    ] = {}
    deny: Annotated[
        dict[str, tuple[str, ...]],
        Meta(
            description='Taken from one service, from one version of it (shop.Orders.v1), or with "*" from all; stronger '
            "than default and allow."
        ),
    ] = {}


class LoggingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the server writes about itself, and where."""

    level: Annotated[Level, Meta(description="Least level that is written; of libraries at least warning.")] = "info"
    format: Annotated[Literal["text", "json"], Meta(description="text for people, json for programs.")] = "text"
    file: Annotated[Path | None, Meta(description="File to append to. None: standard error.")] = None
    levels: Annotated[
        dict[str, Level], Meta(description='A level of its own for a logger: {"insula.edge" = "debug"}.')
    ] = {}


class GrpcSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The port of native gRPC."""

    port: Annotated[int, Meta(ge=0, le=65535, description="Port of native gRPC; 0 takes any free one.")] = 50051


class DatabaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The database that guests' SQL may reach; never the one of [storage]."""

    url: Annotated[Secret | None, Meta(description="sqlite:… or postgres://….")] = None


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The cache of guests."""

    max_size_mb: Annotated[int, Meta(ge=1, le=1_048_576, description="Most that it holds.")] = 100
    default_ttl_secs: Annotated[
        float, Meta(ge=0, le=31_536_000, description="Life of an entry that names none, in seconds.")
    ] = 3600


class FilesystemSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The folders of guests' files."""

    allowed_paths: Annotated[tuple[Path, ...], Meta(description="Folders that guests may be given.")] = ()


class ModuleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """HTTP modules, served below /m/."""

    dir: Annotated[Path | None, Meta(description="Folder of .wasm modules to serve.")] = None
    output_dir: Annotated[Path | None, Meta(description="Folder for what modules write.")] = None
    drain_timeout_ms: Annotated[
        int, Meta(ge=0, le=3_600_000, description="Time that a replaced module has to end its requests.")
    ] = 5000


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """HTTPS on the public port."""

    enabled: Annotated[bool, Meta(description="Whether the public port speaks TLS.")] = False
    cert_path: Annotated[Path | None, Meta(description="PEM file of the certificate chain.")] = None
    key_path: Annotated[Path | None, Meta(description="PEM file of the private key.")] = None


class CorsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Web pages of other origins."""

    allowed_origins: Annotated[tuple[str, ...], Meta(description="Origins whose pages may call the server.")] = ()


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Sign-in of the public port."""

    jwt_secret: Annotated[Secret | None, Meta(description="Key that signs tokens, 32 bytes or more.")] = None
    token_expiry: Annotated[int, Meta(ge=1, le=31_536_000, description="Life of a token, in seconds.")] = 86_400


class RateLimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one client."""

    requests_per_second: Annotated[float, Meta(gt=0, le=1_000_000, description="Requests a second.")] = 100
    burst_size: Annotated[int, Meta(ge=1, le=1_000_000, description="Requests at once.")] = 200
