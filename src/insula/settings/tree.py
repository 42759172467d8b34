"""The whole tree of settings, frozen, and the names of its sections."""

from __future__ import annotations

from typing import Any

import msgspec

from insula.settings.secret import Secret
from insula.settings.sections import (
    AdminSettings,
    AuthSettings,
    CacheSettings,
    CorsSettings,
    DatabaseSettings,
    FilesystemSettings,
    GrantSettings,
    GrpcSettings,
    LimitSettings,
    LoggingSettings,
    ModuleSettings,
    PackageSettings,
    RateLimitSettings,
    ServerSettings,
    SourceSettings,
    StorageSettings,
    TlsSettings,
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an operator can set. `Settings()` is the defaults; `load` reads the sources of this machine.

    `env` and `secrets` hold what each service is told, by its name without version or its full id:
    `{"shop.Orders": {"REGION": "eu"}}`.
    `origins` says where each key that is not at its default came from: `{"server.port": "flag"}`.
    """

    server: ServerSettings = ServerSettings()
    admin: AdminSettings = AdminSettings()
    limits: LimitSettings = LimitSettings()
    storage: StorageSettings = StorageSettings()
    packages: PackageSettings = PackageSettings()
    sources: SourceSettings = SourceSettings()
    grants: GrantSettings = GrantSettings()
    logging: LoggingSettings = LoggingSettings()
    env: dict[str, dict[str, str]] = {}
    secrets: dict[str, dict[str, Secret]] = {}
    grpc: GrpcSettings = GrpcSettings()
    database: DatabaseSettings = DatabaseSettings()
    cache: CacheSettings = CacheSettings()
    filesystem: FilesystemSettings = FilesystemSettings()
    modules: ModuleSettings = ModuleSettings()
    tls: TlsSettings = TlsSettings()
    cors: CorsSettings = CorsSettings()
    auth: AuthSettings = AuthSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    origins: dict[str, str] = {}

    @property
    def storage_url(self) -> str:
        """The database of the server itself: `[storage] url`, or SQLite in the data folder. It may hold a password."""
        if self.storage.url:
            return self.storage.url.reveal()
        return f"sqlite:///{self.server.data_dir / 'insula.db'}"

    @property
    def admin_token(self) -> Secret | None:
        """The token of the admin port, or None where there is none; an empty one is none."""
        return self.admin.token or None


#: Sections with keys of their own, by name, in the order of the documentation.
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerSettings,
    "admin": AdminSettings,
    "limits": LimitSettings,
    "storage": StorageSettings,
    "packages": PackageSettings,
    "sources": SourceSettings,
    "grants": GrantSettings,
    "logging": LoggingSettings,
    "grpc": GrpcSettings,
    "database": DatabaseSettings,
    "cache": CacheSettings,
    "filesystem": FilesystemSettings,
    "modules": ModuleSettings,
    "tls": TlsSettings,
    "cors": CorsSettings,
    "auth": AuthSettings,
    "rate_limit": RateLimitSettings,
}

#: Sections with a table for each service, whose keys are the operator's own, and the type of a value.
SERVICE_SECTIONS: dict[str, Any] = {"env": str, "secrets": Secret}

#: Sections whose feature has no settings yet: read with whatever they hold, and refused at start.
RESERVED_SECTIONS = ("fetch", "mcp", "hub", "policy", "cluster")
