"""A guest's linear memory as the host touches it: every pointer and length is checked, every access is a copy.

Pointers and lengths are unsigned 32-bit numbers that the guest made up. They are compared with the size that the memory
has at this moment (it may have grown since the last look) before anything is allocated or copied.
"""

from __future__ import annotations

import wasmtime

from insula.wasm.faults import OutOfBoundsError


class Memory:
    """The memory of one instance; owned, like its store, by one thread at a time."""

    __slots__ = ("_memory", "_store")

    def __init__(self, store: wasmtime.Store, memory: wasmtime.Memory) -> None:
        self._store = store
        self._memory = memory

    def size(self) -> int:
        """Bytes that the guest has now."""
        return self._memory.data_len(self._store)

    def read(self, pointer: int, size: int) -> bytes:
        """A copy of `size` bytes; OutOfBoundsError before anything is copied."""
        self.check(pointer, size)
        return bytes(self._memory.read(self._store, pointer, pointer + size)) if size else b""

    def write(self, pointer: int, data: bytes) -> None:
        """Copies `data` in; OutOfBoundsError before anything is written."""
        self.check(pointer, len(data))
        if data:
            self._memory.write(self._store, data, pointer)

    def check(self, pointer: int, size: int) -> None:
        """OutOfBoundsError unless all of it is inside."""
        has = self.size()
        if pointer < 0 or size < 0 or pointer + size > has:
            raise OutOfBoundsError(pointer, size, has)
