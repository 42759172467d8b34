"""The one wasmtime engine of a process: its pool of instances and fibers, and the ticker that moves its epoch.

What would kill the process, and what holds it off
- faulthandler, switched on after wasmtime's own signal handler is there, takes a guest's traps for crashes: it is switched
  on before, for good.
- A pool larger than the address space, or than the kernel's table of mappings: its size is computed from both.
"""

from __future__ import annotations

import faulthandler
import resource
import threading
from pathlib import Path
from typing import NamedTuple

import wasmtime
from wasmtime import _bindings as bindings

from insula.errors import ConfigurationError
from insula.wasm.config import make_config
from insula.wasm.guest_memory import machine_memory
from insula.wasm.ticker import Ticker

#: Tables that one module may have, and elements that any table may have.
MAX_TABLES = 8
MAX_TABLE_ELEMENTS = 100_000

#: The fewest instances that a server can be run with, and the most: the stacks of their fibers are laid out at the start.
_LEAST = 64
_MOST = 4096
#: Dead instances that may wait to be freed, beside those that live.
UNTIDY = 256


class Sizes(NamedTuple):
    """How many instances and fibers there may be at once in this process."""

    instances: int
    fibers: int


class Machine:
    """The one wasmtime engine of this process, with its pool and its ticker. `memory` is the bytes that there are."""

    def __init__(self) -> None:
        if not faulthandler.is_enabled():
            faulthandler.enable(file=2)
        self.sizes = sizes = _sizes()
        self.memory = machine_memory()
        config = make_config()
        pool = bindings.wasmtime_pooling_allocation_config_new()
        for name, value in (
            ("total_core_instances", sizes.instances + UNTIDY),
            ("total_memories", sizes.instances + UNTIDY),
            ("total_tables", 2 * (sizes.instances + UNTIDY)),
            ("total_stacks", sizes.fibers),
            ("total_gc_heaps", 0),
            ("max_memories_per_module", 1),
            ("max_tables_per_module", MAX_TABLES),
            ("max_memory_size", 1 << 32),
            ("table_elements", MAX_TABLE_ELEMENTS),
            ("max_core_instance_size", 1 << 20),
            ("linear_memory_keep_resident", 0),
            ("table_keep_resident", 4 << 10),
            ("async_stack_keep_resident", 32 << 10),
        ):
            getattr(bindings, f"wasmtime_pooling_allocation_config_{name}_set")(pool, value)
        bindings.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
        bindings.wasmtime_pooling_allocation_config_delete(pool)
        self.engine = wasmtime.Engine(config)
        self.ticker = Ticker(self.engine.increment_epoch)


_machine: Machine | None = None
_machine_lock = threading.Lock()


def machine() -> Machine:
    """This process's machine, made when it is first asked for."""
    global _machine
    if _machine is None:
        with _machine_lock:
            if _machine is None:
                _machine = Machine()
    return _machine


def _sizes() -> Sizes:
    """An instance takes four mappings of the kernel's and a fiber two; a quarter of them is left to everything else. A
    memory reserves 4 GiB of addresses, and a little more for its guard. An instance keeps the stack of its last fiber, and
    has a second one while a helper export runs under a host function: so there are two fibers for each, and none can be
    refused to an instance that lives."""
    try:
        mappings = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        mappings = 1 << 16
    instances = min(_MOST, mappings * 3 // 4 // 8)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:
        instances = min(instances, space // 2 // (5 << 30))
    if instances < _LEAST:
        raise ConfigurationError(
            f"the system has room for {instances} instances of guests; the server wants {_LEAST} at least",
            hint="raise ulimit -v, or the kernel's vm.max_map_count",
        )
    return Sizes(instances, 2 * (instances + UNTIDY))
