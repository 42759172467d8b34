"""The guests of the loads, in WebAssembly text: each does one thing at each call, and says `{"text":"x"}`.

A method is told by the first letter of its name, so that a guest may have several.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wasmtime

from bench.turns.client import Request
from insula.packages.config import read_config
from insula.packages.writer import write_package
from insula.schema.idl import parse_idl

#: Where a guest's answer lies, its scratch memory, and where what it is given goes.
ANSWER, SCRATCH, HEAP = 1024, 65_536, 1 << 20

HOST = '(import "okra" "run_host_api" (func $host (param i32 i32) (result i32 i32)))'
WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
FILL = "(memory.fill (i32.const {at}) (i32.const {byte}) (i32.const {size}))"
TEXT = "type Text { text: String! }"

_MODULE = """(module {imports}
  (memory (export "memory") {pages})
  (global $next (mut i32) (i32.const {heap}))
  (func $spin (param $rounds i64) (loop $more
    (br_if $more (i64.ne (i64.const 0) (local.tee $rounds (i64.sub (local.get $rounds) (i64.const 1)))))))
  (func $repeat (param $to i32) (param $from i32) (param $size i32) (param $times i32) (loop $more
    (memory.copy (local.get $to) (local.get $from) (local.get $size))
    (local.set $to (i32.add (local.get $to) (local.get $size)))
    (br_if $more (local.tee $times (i32.sub (local.get $times) (i32.const 1))))))
  (func (export "allocate") (param $size i32) (result i32) (local $at i32) {allocate}
    (local.set $at (global.get $next))
    (global.set $next (i32.and (i32.const -16) (i32.add (i32.const 16) (i32.add (local.get $at) (local.get $size)))))
    (local.set $size (i32.shr_u (global.get $next) (i32.const 16)))
    (if (i32.ge_u (local.get $size) (memory.size))
      (then (drop (memory.grow (i32.sub (local.get $size) (i32.sub (memory.size) (i32.const 1)))))))
    (local.get $at))
  (func (export "deallocate") (param i32) {deallocate} (global.set $next (i32.const {heap})))
  (func (export "handle_request") (param $m i32) (param $ml i32) (param $i i32) (param $il i32) (result i64)
    (local $letter i32) (local $n i32)
    (local.set $letter (i32.load8_u (local.get $m)))
    {body}
    (i64.const {answer}))
  {more})"""


def packed(pointer: int, length: int) -> int:
    """A result of handle_request."""
    return pointer << 32 | length


def data(at: int, text: str) -> str:
    """A data segment."""
    quoted = "".join(chr(c) if chr(c).isalnum() and c < 128 else f"\\{c:02x}" for c in text.encode())
    return f'(data (i32.const {at}) "{quoted}")'


def module(
    body: str = "",
    *,
    imports: str = "",
    pages: str = "32",
    more: str = "",
    allocate: str = "",
    deallocate: str = "",
    answer: str = '{"text":"x"}',
) -> bytes:
    """A guest whose method runs `body`; `{"text":"x"}` is what it answers unless `body` returns."""
    text = _MODULE.format(
        imports=imports,
        pages=pages,
        heap=HEAP,
        body=body,
        answer=packed(ANSWER, len(answer)),
        more=data(ANSWER, answer) + more,
        allocate=allocate,
        deallocate=deallocate,
    )
    return bytes(wasmtime.wat2wasm(text))


def case(letter: str, body: str) -> str:
    """What the method whose name begins with the letter does."""
    return f"(if (i32.eq (local.get $letter) (i32.const {ord(letter)})) (then {body}))"


def ask(length: int, at: int = SCRATCH) -> str:
    """A host request that lies there. The call fails where it was not answered with success."""
    return f"""(call $host (i32.const {at}) (i32.const {length})) drop local.set $n
    (if (i32.ne (i32.const {ord("t")}) (i32.load8_u offset={len('{"success":')} (local.get $n)))
      (then (return (i64.const 0))))
    """


def package(
    folder: Path,
    name: str,
    wasm: bytes,
    idl: str = "run(): Text",
    *,
    types: str = TEXT,
    apis: tuple[str, ...] = (),
    limits: Mapping[str, Any] | None = None,
    version: str = "1.0.0",
) -> Path:
    """A package of the service `bench.NAME`; `idl` are its methods."""
    whole = f'@okra(namespace: "bench", version: "v1")\nservice {name} {{ {idl} }}\n{types}\n'
    config = {"name": name, "version": version, "language": "c", "host_apis": apis, "limits": limits or {}}
    target = folder / f"{name}-{version}.okra.pkg"
    write_package(
        target, config=read_config(json.dumps(config).encode()), schema=parse_idl(whole), wasm=wasm, idl=whole
    )
    return target


def call(service: str, method: str = "run", body: bytes = b"{}", **options: Any) -> Request:
    """A call of a method of `bench.SERVICE`."""
    return Request(f"/bench.{service}/{method}", base64.b64encode(body).decode(), **options)
