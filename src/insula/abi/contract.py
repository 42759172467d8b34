"""What an ABI is: how a Call becomes the steps of a guest exchange. No I/O, no threads, no event loop.

An ABI is made once for a module; `entry` once a method at deploy; `exchange` once a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from insula.wasm.contract import Exchange, HostFunction, HostImport, Signature
from insula.wasm.pace import Pace


@dataclass(frozen=True, slots=True)
class Entry:
    """A method as an ABI enters it: `number` is its index in the schema's method list, `pace` how long its calls take."""

    export: str
    method: bytes
    number: int
    pace: Pace = field(default_factory=Pace, compare=False, repr=False)


class Abi(Protocol):
    """One guest ABI."""

    name: str

    def check(self, exports: Mapping[str, Signature], has_memory: bool) -> None:
        """PackageError naming the export that is missing or has the wrong type, with what it should be."""

    def imports(self, functions: Mapping[str, HostFunction]) -> Sequence[HostImport]:
        """The host imports that this ABI offers, over host functions by name (okra: `run_host_api`, `next`)."""

    def entry(self, exports: Mapping[str, Signature], method: str, number: int) -> Entry:
        """How this method is entered in this module."""

    def exchange(self, entry: Entry, payload: bytes) -> Exchange:
        """The steps of one call."""
