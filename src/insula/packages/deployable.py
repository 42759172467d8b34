"""What was read of something that can be deployed, whatever its kind, and what the depot asks of the code that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from insula.calls import ServiceId

MB = 1 << 20


class ServiceLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits that a deployable asks for; what it does not say is the default here, what it may say in `LIMIT_BOUNDS`.

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


@dataclass(frozen=True, slots=True)
class Deployable:
    """Something that was read, checked, and lies on disk under its digest.

    `kind` names the code that read it and that runs it. `digest` is the sha256 (hex) of the file that it came in; `version`
    its author's word; `module` the WebAssembly of its guests, with its sha256 beside it. `host_apis` are the capabilities
    that it asks for, `options` what it writes for each of them. `manifest` is the file in which it asks for those and for
    its limits: messages name it. `parts` is what the kind itself wants to have of it.
    """

    kind: str
    digest: str
    service_id: ServiceId
    version: str
    module: Path
    module_digest: str
    manifest: str
    host_apis: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    parts: Any = None


class Format(Protocol):
    """How the depot reads deployables of one kind. All of it blocks, and runs in threads."""

    name: str

    def recognises(self, source: Path) -> bool:
        """True if a file that came in, or a folder of the depot, is of this kind. Looks at its first bytes or at the names
        in it, and never fails: whether it is whole is for `install` and `read` to say."""

    def install(self, file: Path, folder: Path, digest: str, max_bytes: int) -> None:
        """Takes a file apart into the empty folder, in a form that `read` reads quickly, and flushes it to the disk.
        `digest` is the file's sha256, `max_bytes` the most that it may have. PackageError or OSError."""

    def read(self, folder: Path, digest: str) -> Deployable:
        """What `install` has left in the folder; `data_loss` where a file is not what was installed,
        `failed_precondition` where another version of the server installed it."""
