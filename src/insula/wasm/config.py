"""How guests are compiled: one set of engine options, and the fingerprint under which their code is cached.

Policy
- Epochs are on, so that a guest can be stopped at any moment (see native/).
- A memory never moves: its place is found once, and stays good as long as the instance lives.
- One memory of 32-bit addresses, never shared: threads, 64-bit and multiple memories are off. So are garbage-collected
  types and exceptions, which no supported toolchain needs: what is off cannot be attacked.
- The fingerprint covers everything that native code depends on, what rewrite.py makes of a module too. A wasmtime of
  another version, another option or another machine has another one, and its code is never so much as opened.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib.metadata import version

import wasmtime

from insula.wasm import rewrite

#: Options of `wasmtime.Config`, in the order in which they are set.
OPTIONS: tuple[tuple[str, bool | int], ...] = (
    ("epoch_interruption", True),
    ("memory_may_move", False),
    ("wasm_threads", False),
    ("shared_memory", False),
    ("wasm_memory64", False),
    ("wasm_multi_memory", False),
    ("wasm_custom_page_sizes", False),
    ("wasm_exceptions", False),
    ("wasm_gc", False),
    ("wasm_function_references", False),
    ("gc_support", False),
    ("wasm_relaxed_simd_deterministic", True),
    ("max_wasm_stack", 512 << 10),
)

FINGERPRINT = hashlib.sha256(
    repr((OPTIONS, rewrite.VERSION, version("wasmtime"), platform.machine(), sys.platform)).encode()
).hexdigest()[:16]


def make_config() -> wasmtime.Config:
    """A new set of these options. Code that was compiled with it runs on every engine that has it, pooled or not."""
    # With it wasmtime would read the debug information of guests at every trap, and refuse code that was compiled without.
    os.environ.pop("WASMTIME_BACKTRACE_DETAILS", None)
    config = wasmtime.Config()
    for name, value in OPTIONS:
        setattr(config, name, value)
    return config
