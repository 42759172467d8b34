"""What a deployed service offers to those who call it, in plain data: every gateway reads the same.

A kind says what a deployable publishes; at its staging each method gets a `Plan` (plans.py), which has the codecs and the
way in. A gateway that needs a whole namespace (GraphQL, reflection) reads `Published` of every generation in the table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from insula.calls import ServiceId
from insula.plans import Policy

if TYPE_CHECKING:
    from insula.schema.model import Schema


@dataclass(frozen=True, slots=True)
class PublishedMethod:
    """One method. `input` and `output` are types of the schema as the IDL writes them, "" where there is none. `stream`:
    it sends items instead of one answer, so only a streaming gateway can call it."""

    name: str
    input: str = ""
    output: str = ""
    read_only: bool = False
    stream: bool = False
    policy: Policy = field(default_factory=Policy)
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """What one generation publishes. `schema` has the types of its methods and `descriptor` the same as a protobuf
    FileDescriptorSet; a service without methods has neither. `paths` are those that it answers beside its methods, exact,
    each with the name of the exchange that answers; `topics` are those that it listens to, with that name as well."""

    service: ServiceId
    methods: tuple[PublishedMethod, ...] = ()
    schema: Schema | None = None
    descriptor: bytes = b""
    paths: tuple[tuple[str, str], ...] = ()
    topics: tuple[tuple[str, str], ...] = ()

    def endpoints(self, *, latest: bool) -> list[str]:
        """The shortest path of each method, `/{namespace}.{ServiceName}/{methodName}` where this is the latest version of
        its service, else with the version before the slash; then its other paths."""
        service = self.service.unversioned if latest else self.service
        return [*(f"/{service}/{method.name}" for method in self.methods), *(path for path, _ in self.paths)]
