"""Writes an `.okra.pkg`: the same bytes for the same content, on every machine and at every time.

Order, times, owners and modes are fixed and the gzip header names neither a file nor a system. (The compressed bytes
also depend on the zlib that Python is built with; two machines with different ones make packages of equal content.)
The file is written beside its target, flushed to the disk and renamed, so a reader sees the old package or the new one.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from insula.durable import replace_file
from insula.packages.config import write_config
from insula.packages.okra import CONFIG, DESCRIPTION, DESCRIPTOR, IDL, MIGRATIONS, WASM
from insula.packages.package import PackageConfig
from insula.schema.model import Schema, write_description

#: Deflate, no flags, no time, best compression, no system.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"


def write_package(
    target: Path,
    *,
    config: PackageConfig,
    schema: Schema,
    wasm: bytes,
    idl: str | None = None,
    migrations: Mapping[str, bytes] | None = None,
) -> str:
    """Writes the package to `target` and returns its sha256 in hex. Blocking; OSError where the disk fails.

    `idl` is the text that the schema was parsed from; `migrations` maps a file name (`001_orders.sql`) to its SQL.
    """
    from insula.schema.descriptors import to_descriptor_set

    files = {
        CONFIG: write_config(config),
        DESCRIPTION: write_description(schema),
        DESCRIPTOR: to_descriptor_set(schema),
        WASM: wasm,
    }
    if idl is not None:
        files[IDL] = idl.encode("utf-8")
    for name, sql in (migrations or {}).items():
        files[f"{MIGRATIONS}/{name}"] = sql
    packed = _gzip(_tar(files))
    replace_file(target, packed)
    return hashlib.sha256(packed).hexdigest()


def _tar(files: Mapping[str, bytes]) -> bytes:
    """A ustar of the files in name order, small texts before the module since that is how they sort."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _gzip(data: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    return _GZIP_HEADER + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
