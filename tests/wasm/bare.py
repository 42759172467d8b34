"""A cell with nothing above it: no policy, and nothing that its guest could wait for."""

from __future__ import annotations

from insula.wasm.native.cell import Cell


class BareCell(Cell):
    __slots__ = ()

    def let_go(self) -> bool:
        return False

    def take_back(self) -> None:
        raise AssertionError("nothing was let go")

    def weigh(self) -> None:
        pass

    def overrun(self) -> None:
        pass

    def answered(self) -> tuple[int, ...] | None:
        raise AssertionError("the guest waits for nothing")

    def read(self, pointer: int, size: int, limit: int | None = None) -> bytes:
        return self.peek(pointer, size)
