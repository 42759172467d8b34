"""Packages for tests, made of a schema and a module."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from insula.packages.config import read_config
from insula.packages.writer import write_package
from insula.schema.idl import parse_idl
from tests.guests import build_c

HOSTILE = """
@okra(namespace: "test", version: "{version}")

service Hostile {{
  echo(input: Text): Text
  keep(): Text
  kept(): Text
  loop(): Text
  bomb(): Text
  overflow(): Text
  quit(): Text
  trap(): Text
  outside(): Text
  huge(): Text
  shapeless(): Text
  broken(): Text
  refuse(): Text
  @auth guarded(): Text
  getEcho(input: Text): Text
}}

type Text {{ text: String! at: DateTime data: Bytes big: Long }}
"""


def pack(target: Path, idl: str, wasm: bytes, **config: Any) -> Path:
    """Writes a package with this schema and module; `config` goes into okra.json. Works in a thread, so that a test of
    the server's loop may call it."""

    def work() -> None:
        schema = parse_idl(idl)
        whole = {"name": schema.service.name, "version": "1.0.0", "language": "c", **config}
        write_package(target, config=read_config(msgspec.json.encode(whole)), schema=schema, wasm=wasm, idl=idl)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()
    return target


def hostile(target: Path, *, version: str = "v1", **config: Any) -> Path:
    """The package of hostile.c; skips the test where there is no C compiler."""
    return pack(target, HOSTILE.format(version=version), build_c("hostile.c").read_bytes(), **config)
