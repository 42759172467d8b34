"""The limits of one deployed service that are in force, and which line sets each: made once, at its deploy.

A deployable asks for limits in its manifest; the operator's table for the service stands above them, and the server's
limits above that or below it. The admin API shows the outcome. Code that refuses a call names the limit by a reason alone.
The gateway that writes the refusal looks up in `hints` which line sets that limit for this service: the hot path knows
nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from insula.calls import ServiceId, written_for
from insula.errors import CallerError, Code
from insula.packages.deployable import LIMIT_BOUNDS, Deployable, ServiceLimits

SERVER = "[limits]"

#: Reason of a refusal -> the limit that decides.
_REASONS: Mapping[str, str] = {
    "memory_limit": "memory_mb",
    "output_limit": "output_mb",
    "body_bytes": "body_bytes",
    "body_values": "body_values",
    "mailbox_full": "mailbox",
    "deadline": "timeout_ms",
}
#: Reason -> what the one who is refused can do without the operator.
_INSTEAD: Mapping[str, str] = {
    "memory_limit": "make the guest use less",
    "output_limit": "answer in parts",
    "body_bytes": "send less at once",
    "body_values": "send or answer less at once",
    "mailbox_full": "try again later",
    "deadline": "let the service answer sooner",
}
_MOST = {**{key: most for key, (_, most) in LIMIT_BOUNDS.items()}, "body_bytes": 1 << 31, "body_values": 100_000_000}


class Limit(NamedTuple):
    """One limit in force. `place` is where it is written: the manifest, `[limits.services."shop.Orders"]` or `[limits]`;
    `key` how it is called there; `package` what the manifest has of it, or None for a limit that it cannot ask for."""

    value: int
    place: str
    key: str
    package: int | None = None


class InForce:
    """Every limit of one service, by its name in the manifest."""

    def __init__(
        self, service: ServiceId, manifest: str, limits: Mapping[str, Limit], ceilings: Mapping[str, Limit]
    ) -> None:
        self._service = service
        self._manifest = manifest
        self._limits = dict(limits)
        self._ceilings = ceilings

    def __getitem__(self, key: str) -> Limit:
        return self._limits[key]

    def values(self) -> dict[str, Any]:
        """The numbers alone, for programs."""
        return {key: limit.value for key, limit in self._limits.items()}

    def elsewhere(self) -> dict[str, str]:
        """Where each limit comes from that is not what the manifest, or its default, says, for people: `[limits]
        request_timeout_ms; okra.json has 5000`."""
        return {key: self._whence(limit) for key, limit in self._limits.items() if limit.place != self._manifest}

    def package_limits(self) -> ServiceLimits:
        """Those that a manifest can ask for, as they are in force."""
        return msgspec.convert({key: self._limits[key].value for key in ServiceLimits.__struct_fields__}, ServiceLimits)

    def line(self, key: str, value: int) -> str:
        """What to write, and where, so that a limit has this value: a sentence whose end can be pasted."""
        limit = self._limits[key]
        table = f'[limits.services."{self._service.unversioned}"]'
        if limit.place == self._manifest:
            own = f'"limits": {{"{key}": {shown(value)}}}'
            here = f"in the server's configuration under {table}: {key} = {shown(value)}"
            return f"write {own} in {self._manifest}, or {here}"
        return f"write in the server's configuration under {limit.place}: {limit.key} = {shown(value)}"

    def hints(self) -> dict[str, str]:
        """Reason of a refusal -> what to do about it."""
        return {reason: f"{_INSTEAD[reason]}; or {self._raise(key)}" for reason, key in _REASONS.items()}

    def _whence(self, limit: Limit) -> str:
        asked = limit.package
        own = "" if asked is None or asked == limit.value else f"; {self._manifest} has {shown(asked)}"
        return f"{limit.place} {limit.key}{own}"

    def _raise(self, key: str) -> str:
        limit, ceiling = self._limits[key], self._ceilings.get(key)
        more = min(2 * limit.value, _MOST[key])
        if ceiling is not None and limit.place != ceiling.place and more > ceiling.value:
            more = ceiling.value
            if more <= limit.value:
                return f"raise what bounds it, {ceiling.place} {ceiling.key} ({ceiling.value}), and then {limit.key}"
        if more <= limit.value:
            return f"spread the work: {key} is as high as it can be"
        return f"to raise {limit.key}, {self.line(key, more)}"


def in_force(
    deployable: Deployable,
    tables: Mapping[str, Mapping[str, int]],
    *,
    body_bytes: int,
    body_values: int,
    request_timeout_ms: int,
    max_memory_mb: int = 4096,
) -> InForce:
    """The limits of a package's service under the operator's `tables` (by service, with version or without) and the limits
    of the server. CallerError where the operator asks for more instances to be kept than there may be."""
    service, manifest = deployable.service_id, deployable.manifest
    own = msgspec.structs.asdict(deployable.limits)
    limits = {key: Limit(value, manifest, f"limits.{key}", value) for key, value in own.items()}
    limits["body_bytes"] = Limit(body_bytes, SERVER, "body_bytes")
    limits["body_values"] = Limit(body_values, SERVER, "body_values")
    for name, table in written_for(service, tables).items():
        place = f'[limits.services."{name}"]'
        limits |= {key: Limit(value, place, key, own.get(key)) for key, value in table.items()}
    longest = Limit(request_timeout_ms, SERVER, "request_timeout_ms", own["timeout_ms"])
    if limits["timeout_ms"].value > request_timeout_ms:
        limits["timeout_ms"] = longest
    if limits["singleton"].value:
        limits["max_instances"] = limits["singleton"]._replace(value=1, package=own["max_instances"])
    least, most = limits["min_instances"], limits["max_instances"]
    if least.value > most.value:
        if least.place != manifest:
            raise CallerError(
                f"{service} is to keep {least.value} instances by {least.place}, and may have {most.value} by "
                f"{most.place} {most.key}",
                code=Code.FAILED_PRECONDITION,
                reason="min_instances",
                hint=f"write in the server's configuration under {least.place}: min_instances = {most.value}",
            )
        limits["min_instances"] = most._replace(package=least.value)
    return InForce(
        service,
        manifest,
        limits,
        {"timeout_ms": longest, "memory_mb": Limit(max_memory_mb, "[packages]", "max_memory_mb")},
    )


def shown(value: int) -> str:
    """A number or a truth value, as TOML and JSON both have it."""
    return str(value).lower()
