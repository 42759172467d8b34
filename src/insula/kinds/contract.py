"""What a kind is: all that differs between an okra package, an app and a bus module, in one file each.

The depot, staging, deployments, gateways and pages know this protocol and no kind. A kind says how a file is read
(`packages.deployable.Format`), what its guests may import, how a call enters them, what an instance does when it starts
and before it goes, and what is published. It is registered by argument (`Server(kinds=…)`) or by an entry point in the
group `insula.kinds` (see catalogue.py). A kind has no state of its own: one object serves every deployable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from insula.calls import ServiceId
from insula.host.contract import Configured
from insula.packages.deployable import Deployable, Format
from insula.published import Published
from insula.services.life import Life
from insula.wasm.contract import Exchange, HostImport, Module


@dataclass(frozen=True, slots=True)
class Granted:
    """The host as one service generation may use it: its capabilities by name (`okra.state`), configured for it. `known`
    are all that this server has."""

    service: ServiceId
    capabilities: Mapping[str, Configured]
    known: frozenset[str]


class Kind(Format, Protocol):
    """One kind of deployable. All but the methods of `Format` are plain functions, called on the event loop at a deploy."""

    def published(self, deployable: Deployable) -> Published:
        """What gateways may route to. PackageError for what is wrong with it."""

    def exchanges(self, published: Published, module: Module) -> Mapping[str, Exchange | None]:
        """How a call, an event, a message or a request enters the guest, by the name of the method, path or topic that was
        published; None for what only a streaming gateway can call. PackageError naming the export that is missing or has
        the wrong type, with what it should be."""

    def imports(self, deployable: Deployable, module: Module, host: Granted) -> Sequence[HostImport]:
        """What its guests may import beside WASI: thin bindings over the capabilities that were granted."""

    def life(self, deployable: Deployable, module: Module) -> Life:
        """What an instance does when it starts, and before it goes in an orderly way."""
