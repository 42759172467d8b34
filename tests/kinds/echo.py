"""A small kind that the product does not know: echo modules, to prove that one file is all a kind needs.

A file has three lines and a module behind them: `insula-echo`, the service's id, its version; then WebAssembly. Its guests
export `alloc`, and one function `(ptr, len i32) -> packed` a method; `begin`, `busy () -> i32` and `finish` are its life.
They may import from `echo`: `log(s)`, `keep(key s, value s)`, `kept(key s) -> packed`, `left() -> i32`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from insula.abi.memory import no_room
from insula.abi.shapes import host_import
from insula.calls import ServiceId
from insula.durable import flush, write_file
from insula.errors import Code, InsulaError, PackageError
from insula.host.scope import Scope
from insula.kinds.contract import Granted
from insula.kinds.schemas import methods_of
from insula.packages.deployable import Deployable, ServiceLimits
from insula.published import Published
from insula.schema.descriptors import to_descriptor_set
from insula.schema.idl import parse_idl
from insula.services.life import Entry, Life
from insula.wasm.contract import Exchange, Guest, HostImport, Module, RefusalError, Signature
from insula.wasm.pace import Pace

MAGIC = b"insula-echo\n"
IDL = """
@okra(namespace: "{0}", version: "{2}")
service {1} {{ say: Text  echo(input: Text): Text  remember(input: Text): Text  recall: Text  refuse: Text }}
type Text {{ text: String! }}
"""
PACKED = Signature(("i32", "i32"), ("i64",))


class EchoKind:
    """`left` is what `echo.left` answers to guests, from its end on: so many times they are busy."""

    name = "echo"

    def __init__(self) -> None:
        self.left: list[int] = []

    def recognises(self, source: Path) -> bool:
        if source.is_dir():
            return (source / "echo.txt").exists()
        with open(source, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC

    def install(self, file: Path, folder: Path, digest: str, max_bytes: int) -> None:
        _, name, version, module = file.read_bytes().split(b"\n", 3)
        try:
            ServiceId.parse(name.decode())
        except InsulaError as error:
            raise PackageError(f"an echo module has no proper name: {error.message}") from None
        text = b"%b\n%b\n%b" % (name, version, hashlib.sha256(module).hexdigest().encode())
        for path, data in (("echo.txt", text), ("echo.wasm", module)):
            write_file(folder / path, data)
            flush(folder / path)
        flush(folder)

    def read(self, folder: Path, digest: str) -> Deployable:
        name, version, module_digest = (folder / "echo.txt").read_text().split("\n")
        if hashlib.sha256((folder / "echo.wasm").read_bytes()).hexdigest() != module_digest:
            raise InsulaError("echo.wasm is not what was installed", code=Code.DATA_LOSS)
        return Deployable(
            kind=self.name,
            digest=digest,
            service_id=ServiceId.parse(name),
            version=version,
            module=folder / "echo.wasm",
            module_digest=module_digest,
            manifest="echo.txt",
            host_apis=("okra.log", "okra.state"),
            limits=ServiceLimits(max_instances=1, min_instances=1),
        )

    def published(self, deployable: Deployable) -> Published:
        schema = parse_idl(IDL.format(*deployable.service_id))
        return Published(deployable.service_id, methods_of(schema), schema, to_descriptor_set(schema))

    def exchanges(self, published: Published, module: Module) -> Mapping[str, Exchange | None]:
        for method in published.methods:
            if module.exports.get(method.name) != PACKED:
                raise PackageError(f"an echo module exports {method.name} {PACKED}", reason="missing_export")
        return {method.name: Echo(method.name) for method in published.methods}

    def imports(self, deployable: Deployable, module: Module, host: Granted) -> Sequence[HostImport]:
        log: Any = host.capabilities["okra.log"]
        state: Any = host.capabilities["okra.state"]

        async def keep(scope: Scope, key: str, value: bytes) -> None:
            await state.set(scope, key, value)

        async def kept(scope: Scope, key: str) -> bytes | None:
            value = await state.get(scope, key)
            return None if value is None else value.data.encode()

        return [
            host_import("echo", "log", "s", "", lambda scope, text: log.write(scope, "info", text)),
            host_import("echo", "keep", "sb", "", keep),
            host_import("echo", "kept", "s", "b", kept),
            host_import("echo", "left", "", "i", lambda _scope: self.left.pop() if self.left else 0),
        ]

    def life(self, deployable: Deployable, module: Module) -> Life:
        def entry(name: str) -> Entry | None:
            return Entry(Step(name), 5.0) if name in module.exports else None

        return Life(start=entry("begin"), drain=entry("busy"), close=entry("finish"))


class Echo:
    """One method: the input in memory of the guest's `alloc`, the output where the packed result says, 0 for a refusal."""

    number = None

    def __init__(self, export: str) -> None:
        self.export = export
        self.pace = Pace()

    def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
        return guest.put_in("alloc", payload) or no_room(guest, "alloc", len(payload)), len(payload)

    def finish(self, guest: Guest, args: tuple[int, ...], result: int) -> bytes:
        if not result:
            raise RefusalError("the echo module has nothing to say", code=Code.NOT_FOUND)
        return guest.read(result >> 32, result & 0xFFFFFFFF)


class Step:
    """A step in the life of an instance: no arguments, a number or nothing out."""

    number = None

    def __init__(self, export: str) -> None:
        self.export = export
        self.pace = Pace()

    def begin(self, guest: Guest, payload: bytes) -> tuple[int, ...]:
        return ()

    def finish(self, guest: Guest, args: tuple[int, ...], result: int) -> bytes:
        return b"%d" % result


def write_echo(file: Path, service: str, version: str, module: bytes) -> Path:
    """Writes a file of this kind."""
    file.write_bytes(b"%b%b\n%b\n%b" % (MAGIC, service.encode(), version.encode(), module))
    return file
