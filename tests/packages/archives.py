"""Archives for the tests: plain ones, odd ones, and ones that no honest tool would write."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from insula.packages.package import PackageConfig
from insula.packages.writer import write_package
from insula.schema.idl import parse_idl
from insula.schema.model import Schema

IDL = """@okra(namespace: "demo", version: "v1")

"Greets people."
service Greeter {
  greet(input: GreetRequest): Greeting
  listMoods: [Mood]
  @auth(roles: ["admin"]) shutdown: Boolean
  @auth leave: Boolean
}
type GreetRequest { name: String!  times: Int }
type Greeting { message: String! }
enum Mood { HAPPY SAD }
"""
WASM = b"\0asm\x01\0\0\0"
CONFIG = PackageConfig(name="Greeter", version="1.2.3", language="c", host_apis=("okra.log",))


def schema() -> Schema:
    return parse_idl(IDL)


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object
) -> tuple[tarfile.TarInfo, bytes]:
    """One entry; `more` are attributes of TarInfo."""
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.size = len(data)
    for key, value in more.items():
        setattr(entry, key, value)
    return entry, data


def tar(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:  # noqa: A002
    """A tar of exactly these members, in this order, whatever their names are."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for entry, data in members:
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return gzip.compress(tar(*members), mtime=0)


def files_of(package: bytes) -> dict[str, bytes]:
    """The files of an honest package."""
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        found = {}
        for entry in archive:
            content = archive.extractfile(entry)
            assert content is not None
            found[entry.name] = content.read()
        return found


def honest(folder: Path, **changes: object) -> dict[str, bytes]:
    """The files of the test package, as the writer makes them."""
    target = folder / "honest.okra.pkg"
    write_package(target, **({"config": CONFIG, "schema": schema(), "wasm": WASM, "idl": IDL} | changes))  # type: ignore[arg-type]
    return files_of(target.read_bytes())


def package(files: Mapping[str, bytes | None], prefix: str = "") -> bytes:
    """A package of these files; None leaves one out."""
    return packed(*(member(prefix + name, data) for name, data in files.items() if data is not None))


def changed(files: Mapping[str, bytes], **changes: bytes | None) -> dict[str, bytes | None]:
    """The files with some replaced or (None) left out; `okra_json` stands for okra.json and so on."""
    names = {name.replace(".", "_"): name for name in files}
    return {**files, **{names[key]: value for key, value in changes.items()}}


def chunks_of(data: bytes, size: int = 1000) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))
