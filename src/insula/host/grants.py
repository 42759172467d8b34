"""What a package asks for against what the operator grants.

A package names the host APIs that it uses (`host_apis` of okra.json) and may write options for them (`grants`). A service
may have what `default` has, and what `allow` adds for it or for `*`; `deny` takes away again, for it or for `*`, and is
stronger than both. Both name a service without its version, or one version of it by its full id. `okra.context` tells a
service only of its own call, so it is always granted. A package that asks for more is refused before anything of it is
compiled, with the line that would allow it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from insula.calls import ServiceId, written_for
from insula.errors import CallerError, Code, PackageError
from insula.spelling import nearest

ALWAYS = frozenset({"okra.context"})


class Grants:
    """The operator's side. Keys of `allow` and `deny` are service names without version (`shop.Orders`), full ids
    (`shop.Orders.v1`) or `*`; a service has what stands under any of its own."""

    def __init__(
        self,
        default: Sequence[str],
        allow: Mapping[str, Sequence[str]] | None = None,
        deny: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._default = tuple(default)
        self._allow = allow or {}
        self._deny = deny or {}

    def allowed(self, service: ServiceId) -> frozenset[str]:
        """The host APIs that a service may ask for."""
        return (self._given(service) - self._denied(service)) | ALWAYS

    def decide(
        self,
        service: ServiceId,
        host_apis: Sequence[str],
        options: Mapping[str, Mapping[str, Any]],
        known: frozenset[str],
        manifest: str,
    ) -> dict[str, Mapping[str, Any]]:
        """api -> options, for each API that a package asked for in its `manifest` and may have. PackageError for an API
        that this server does not know or options for one that was not asked for; CallerError `permission_denied` for more
        than granted."""
        asked = frozenset(host_apis) | ALWAYS
        for api in sorted(asked - known):
            raise _unknown(api, known, manifest)
        for api in options:
            if api not in asked:
                raise PackageError(
                    f"{manifest} has grants for {api[:80]!r}, which is not among its host_apis",
                    hint=f"add {api[:80]!r} to host_apis, or remove it from grants",
                )
        self._refuse_more(service, asked)
        return {api: options.get(api, {}) for api in sorted(asked)}

    def _given(self, service: ServiceId) -> frozenset[str]:
        return frozenset(self._default).union(*written_for(service, self._allow).values())

    def _denied(self, service: ServiceId) -> frozenset[str]:
        return frozenset().union(*written_for(service, self._deny).values())

    def _refuse_more(self, service: ServiceId, asked: frozenset[str]) -> None:
        more = sorted(asked - self.allowed(service))
        if not more:
            return
        denied = [api for api in more if api in self._denied(service)]
        if denied:
            hint = (
                f"[grants] deny in the server's configuration names {', '.join(denied)}; take it out there to allow it"
            )
        else:
            line = sorted({*self._allow.get(service.unversioned, ()), *more})
            hint = (
                "to allow it, write in the server's configuration under [grants]: "
                f"allow = {{{json.dumps(service.unversioned)} = {json.dumps(line)}}}"
            )
        raise CallerError(
            f"{service} asks for {', '.join(more)}, which it is not granted",
            code=Code.PERMISSION_DENIED,
            reason="not_granted",
            hint=hint,
        )


def _unknown(api: str, known: frozenset[str], manifest: str) -> PackageError:
    near = nearest(api, known)
    return PackageError(
        f"{manifest} asks for the host API {api[:80]!r}, which this server does not have",
        hint=f"did you mean {near}?" if near else f"it has {', '.join(sorted(known))}",
    )
