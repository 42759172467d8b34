"""`okra.env`: `get {key}` -> string or null.

A guest never sees the environment of the process. It sees what the operator wrote under `[env."namespace.Name"]`, and of
that only the keys that its package asked for (`"grants": {"okra.env": {"keys": ["REGION"]}}`). A key that was asked for
and is not configured is null, so that a package can have optional settings; which keys those are is logged when the
service is deployed. A key that was not asked for is POLICY_DENIED, configured or not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from insula.calls import ServiceId, written_for
from insula.host.contract import Configured, HostError, Operation
from insula.host.options import string_list
from insula.host.parameters import read
from insula.host.scope import Scope
from insula.host.services import HostServices

log = logging.getLogger("insula.host")

WHERE = 'the keys stand there beside host_apis, as "grants": {"okra.env": {"keys": ["REGION"]}}'


class _Get(msgspec.Struct, gc=False):
    key: str


_gets = msgspec.json.Decoder(_Get)


class EnvCapability:
    """`env` is what the operator configured, by the service's name without version, or its full id, which is stronger."""

    name = "okra.env"

    def __init__(self, env: Mapping[str, Mapping[str, str]]) -> None:
        self._env = env

    def configure(self, service: ServiceId, options: Mapping[str, Any]) -> ServiceEnv:
        keys = string_list(self.name, options, "keys")
        configured = {key: text for own in written_for(service, self._env).values() for key, text in own.items()}
        if not keys:
            log.warning("%s asks for okra.env and may read no key of it: %s", service, WHERE)
        missing = sorted(key for key in keys if key not in configured)
        if missing:
            log.warning(
                '%s asks for %s, which [env."%s"] does not set: it reads null',
                service,
                ", ".join(missing),
                service.unversioned,
            )
        return ServiceEnv({key: configured.get(key) for key in keys})


class ServiceEnv(Configured):
    """The keys that one service may read, with their values."""

    def __init__(self, values: Mapping[str, str | None]) -> None:
        self._values = values
        self._texts = {key: msgspec.json.encode(value) for key, value in values.items()}

    def get(self, key: str) -> str | None:
        """The value of a key, None where it is not set. HostError POLICY_DENIED for a key that was not asked for."""
        if key not in self._values:
            raise _not_asked_for(key)
        return self._values[key]

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {"get": self._get}

    def _get(self, _scope: Scope, parameters: bytes) -> bytes:
        key = read(_gets, parameters).key
        text = self._texts.get(key)
        if text is None:
            raise _not_asked_for(key)
        return text


def _not_asked_for(key: str) -> HostError:
    return HostError("POLICY_DENIED", f"okra.json does not ask for the key {key[:80]!r}: {WHERE}")


def capability(services: HostServices) -> EnvCapability:
    return EnvCapability(services.env)
