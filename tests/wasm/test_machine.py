"""What the one machine of a process is sized by, and that there is one."""

from __future__ import annotations

import faulthandler
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from insula.errors import ConfigurationError
from insula.wasm import machine as room
from insula.wasm.machine import UNTIDY, Sizes, _sizes, machine


@pytest.fixture
def mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's number of mappings, as a file that the test writes."""
    file = tmp_path / "max_map_count"
    monkeypatch.setattr(room, "Path", lambda _: file)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return file


@pytest.mark.parametrize(
    ("text", "instances"),
    [
        ("65530\n", 4096),
        ("10000", 937),
        ("1000", 93),
        ("10000000", 4096),
        ("no number", 4096),
        (None, 4096),
    ],
)
def test_the_sizes_follow_from_the_kernels_mappings(mappings: Path, text: str | None, instances: int) -> None:
    if text is not None:
        mappings.write_text(text)
    sizes = _sizes()
    assert sizes == Sizes(instances, 2 * (instances + UNTIDY))
    assert 8 * sizes.instances <= int(text if text is not None and text.strip().isdigit() else 65536)


def test_an_address_space_that_is_bounded_bounds_the_instances(mappings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mappings.write_text("65530")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * 100 * (5 << 30), resource.RLIM_INFINITY))
    assert _sizes() == Sizes(100, 2 * (100 + UNTIDY))


@pytest.mark.parametrize(("count", "space"), [("400", resource.RLIM_INFINITY), ("65530", 2 * 63 * (5 << 30))])
def test_too_little_room_is_said_with_what_to_raise(
    mappings: Path, monkeypatch: pytest.MonkeyPatch, count: str, space: int
) -> None:
    mappings.write_text(count)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (space, resource.RLIM_INFINITY))
    with pytest.raises(ConfigurationError, match="wants 64 at least") as caught:
        _sizes()
    assert "vm.max_map_count" in (caught.value.hint or "")


def test_there_is_one_machine_whoever_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    all_ask = threading.Barrier(8)

    class Made:
        def __init__(self) -> None:
            made.append(self)
            inside.wait(5)

    inside = threading.Event()
    monkeypatch.setattr(room, "_machine", None)
    monkeypatch.setattr(room, "Machine", Made)
    got: list[object] = []

    def ask() -> None:
        all_ask.wait(5)
        got.append(machine())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    while not made:
        pass
    inside.set()
    for thread in threads:
        thread.join(5)
    assert len(made) == 1
    assert got == made * 8


# In a process of their own


def test_faulthandler_may_be_switched_on_after_the_engine() -> None:
    """It is on before: switched on later, it would take wasmtime's signals for crashes."""
    script = """
import asyncio, faulthandler, sys, time, tempfile
from pathlib import Path
import wasmtime
from insula.wasm.machine import machine
from insula.wasm.native.template import Template
from insula.wasm.contract import Signature
from insula.wasm.traps import EngineError
from tests.wasm.bare import BareCell
assert not faulthandler.is_enabled()
text = '(module (memory (export "memory") 1) (func (export "go") (drop (i32.load (i32.const -16)))))'
module = wasmtime.Module(machine().engine, text)
faulthandler.enable()
cell = BareCell(Template(module, {"go": Signature()}, [], memory_bytes=1 << 20, table_elements=10))
cell.instantiate()
assert cell.poll() is not None
cell.find_exports()
try:
    cell.call("go")
except EngineError as trap:
    print(trap.code.name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "MEMORY_OUT_OF_BOUNDS\n"), done.stderr
    assert faulthandler.is_enabled()


def test_an_address_space_too_small_is_said_and_not_a_crash() -> None:
    script = """
import resource
from insula.wasm.machine import machine
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    machine()
except Exception as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ConfigurationError\n"), done.stderr
