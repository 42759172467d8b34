"""Programs of one guest, run once."""

from __future__ import annotations

import time
from typing import Any

from insula.wasm.contract import Engine, Exchange, GuestLimits, HostImport, Program, Signature, WasiOptions
from tests.guests import digest, wat
from tests.wasm.test_contract import Steps


async def program(engine: Engine, text: str, *imports: HostImport, limits: GuestLimits | None = None) -> Program:
    path = wat(text)
    return engine.link(
        await engine.load(path, digest(path)), imports, limits or GuestLimits(memory_bytes=8 << 20), WasiOptions()
    )


async def run(made: Program, exchange: Exchange, *, within: float = 5.0) -> bytes:
    instance = await made.instantiate()
    try:
        answer = made.runner(exchange)(instance, b"", None, time.monotonic() + within)
        return answer if isinstance(answer, bytes) else await answer
    finally:
        instance.close()


def host(function: Any, give: Any = lambda guest, answer: (0,)) -> HostImport:
    return HostImport("t", "h", Signature(("i32", "i32"), ("i32",)), lambda guest, args: b"", function, give)


HOST = '(import "t" "h" (func $h (param i32 i32) (result i32)))'


class Early(Steps):
    """Calls a helper export before the entry."""

    def __init__(self, helper: str, *args: int) -> None:
        super().__init__("go")
        self.helper, self.args = helper, args
        self.got = 0

    def begin(self, guest: Any, payload: bytes) -> tuple[int, ...]:
        self.got = guest.call(self.helper, *self.args)
        return ()
