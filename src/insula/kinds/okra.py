"""The kind of okra packages: services whose guests answer JSON with JSON.

A package is a gzip tar with a module, an `okra.json` and a schema (`packages/okra.py` reads it, `packages/installed.py`
what lies in the depot). Its guests are entered by the okra ABI and reach every capability through two imports. They have
nothing to do at their start beside `_initialize`, which the engine calls, and nothing before they go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from insula.abi.okra import OkraAbi
from insula.host.broker import Broker
from insula.kinds.contract import Granted
from insula.kinds.schemas import methods_of
from insula.packages.deployable import Deployable
from insula.packages.gzipped import ArchiveLimits
from insula.packages.installed import RECORD, read_installed, settle
from insula.packages.okra import CONFIG, load_package, unpack
from insula.packages.package import Package
from insula.published import Published
from insula.services.life import Life
from insula.wasm.contract import Exchange, HostImport, Module

_GZIP = b"\x1f\x8b"


class OkraKind:
    """See `kinds.contract.Kind`. The `parts` of a deployable are its `Package`."""

    name = "okra"

    def __init__(self) -> None:
        self._abi = OkraAbi()

    def recognises(self, source: Path) -> bool:
        """A file that is compressed by gzip; a folder with the record of its installation, or with its okra.json."""
        if source.is_dir():
            return (source / RECORD).exists() or (source / CONFIG).exists()
        try:
            with open(source, "rb") as file:
                return file.read(2) == _GZIP
        except OSError:
            return False

    def install(self, file: Path, folder: Path, digest: str, max_bytes: int) -> None:
        """Unpacks and checks a package, and writes the form that is read at each start."""
        unpack(file, folder, ArchiveLimits(packed=max_bytes))
        settle(load_package(folder, digest))

    def read(self, folder: Path, digest: str) -> Deployable:
        """The package in a folder of the depot."""
        return deployable(read_installed(folder, digest))

    def published(self, deployable: Deployable) -> Published:
        """The methods of its schema."""
        package: Package = deployable.parts
        return Published(
            deployable.service_id, methods_of(package.schema), schema=package.schema, descriptor=package.descriptor
        )

    def exchanges(self, published: Published, module: Module) -> Mapping[str, Exchange | None]:
        """By the okra ABI. A method's number is its place in the schema."""
        self._abi.check(module.exports, module.has_memory)
        return {
            method.name: None if method.stream else self._abi.exchange(module.exports, method.name, number)
            for number, method in enumerate(published.methods)
        }

    def imports(self, deployable: Deployable, module: Module, host: Granted) -> Sequence[HostImport]:  # noqa: ARG002
        """`okra.run_host_api` and `okra.next`."""
        operations = {name: capability.okra for name, capability in host.capabilities.items()}
        broker = Broker(host.service, operations, host.known)
        return self._abi.imports(broker.functions(), broker.refusal)

    def life(self, deployable: Deployable, module: Module) -> Life:  # noqa: ARG002
        """Nothing but `_initialize`."""
        return Life()


def deployable(package: Package) -> Deployable:
    """A package that was read, for the code that knows no kind."""
    config = package.config
    return Deployable(
        kind=OkraKind.name,
        digest=package.digest,
        service_id=package.service_id,
        version=config.version,
        module=package.wasm,
        module_digest=package.wasm_digest,
        manifest=CONFIG,
        host_apis=config.host_apis,
        options=config.grants,
        limits=config.limits,
        parts=package,
    )
