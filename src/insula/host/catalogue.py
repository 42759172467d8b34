"""Every capability of this server: those that come with it and those that were installed beside it, by the same door.

A capability is made by a callable `(HostServices) -> Capability | None`. The built-in ones are the list below; an
embedder's come as entry points of the group `insula.capabilities` of any installed distribution. A name may be taken
once: a stranger cannot put itself in the place of a built-in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any, TypeAlias

from insula.calls import ServiceId
from insula.errors import ConfigurationError
from insula.host import call, context, env, log, time
from insula.host.contract import Capability, Configured
from insula.host.services import HostServices
from insula.host.state import StateCapability

GROUP = "insula.capabilities"

#: Makes a capability; None where this server has not got what it would need.
Factory: TypeAlias = Callable[[HostServices], "Capability | None"]


def _state(services: HostServices) -> Capability | None:
    return None if services.state is None else StateCapability(services.state)


BUILT_IN: tuple[Factory, ...] = (
    _state,
    log.capability,
    context.capability,
    time.capability,
    env.capability,
    call.capability,
)


class Catalogue:
    """The capabilities by name."""

    def __init__(self, capabilities: Iterable[Capability | None]) -> None:
        self._capabilities: dict[str, Capability] = {}
        for capability in capabilities:
            if capability is None:
                continue
            if capability.name in self._capabilities:
                raise ConfigurationError(
                    f"two capabilities are named {capability.name}",
                    hint=f"one of them comes from a distribution with an entry point in {GROUP}: uninstall it",
                )
            self._capabilities[capability.name] = capability

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._capabilities)

    def configure(self, service: ServiceId, granted: Mapping[str, Mapping[str, Any]]) -> dict[str, Configured]:
        """The capabilities for one service generation, by name. `granted` is name -> options; all are known."""
        return {api: self._capabilities[api].configure(service, options) for api, options in granted.items()}


def load(services: HostServices) -> Catalogue:
    """The built-in capabilities and those of installed distributions; ConfigurationError naming the entry point that does
    not load. Reads the metadata of installed distributions: files, so not on a running event loop."""
    made = [factory(services) for factory in BUILT_IN]
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        try:
            made.append(point.load()(services))
        except Exception as error:
            raise ConfigurationError(
                f"the capability {point.name!r} ({point.value}) does not load: {type(error).__name__}: {error}",
                hint="mend or uninstall the distribution that brings it",
            ) from error
    return Catalogue(made)
