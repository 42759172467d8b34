"""What an ABI is: how a method of a module is called, as steps over a guest. No I/O, no threads, no event loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from insula.wasm.contract import Exchange, HostFunction, HostImport, Signature


class Abi(Protocol):
    """One guest ABI; it has no state, so one serves every module."""

    name: str

    def check(self, exports: Mapping[str, Signature], has_memory: bool) -> None:
        """PackageError naming the export that is missing or has the wrong type, with what it should be."""

    def imports(self, functions: Mapping[str, HostFunction]) -> Sequence[HostImport]:
        """The host imports that this ABI offers, over host functions by name (okra: `run_host_api`, `next`)."""

    def exchange(self, exports: Mapping[str, Signature], method: str, number: int) -> Exchange:
        """How this method is called in this module; made once, at deploy. `number` is its index in the schema's list."""
