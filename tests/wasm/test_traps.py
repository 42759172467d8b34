"""What is told of a guest that trapped: its frames with raw names, and never the work of a demangler."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from insula.errors import GuestError, PackageError
from insula.wasm import faults
from insula.wasm.contract import Engine, GuestLimits, Program, Signature, WasiOptions
from insula.wasm.engine import NativeEngine
from insula.wasm.native import callbacks, library
from insula.wasm.traps import MAX_FRAMES, MAX_NAME
from tests.guests import digest, save, wat
from tests.wasm.conftest import ENGINES
from tests.wasm.test_contract import Steps, run
from tests.wasm.test_modules import number, section

#: Code of a function that traps, that calls the one before it, and that calls itself.
TRAPS, CALLS, DEEP = b"\x00\x00\x0b", b"\x00\x10\x00\x0b", b"\x00\x10\x00\x0b"


def nested(levels: int) -> bytes:
    """A C++ name that doubles when it is demangled, at each nine bytes."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    kept = ["S_", *(f"S{digit}_" for digit in digits)]
    return ("_Z1f1aIiiE" + "".join(f"S_I{kept[n]}{kept[n]}E" for n in range(1, levels))).encode()


def named(*names: bytes, bodies: tuple[bytes, ...] = (TRAPS,), local: bytes = b"") -> Path:
    """A module whose last function is the export `go`; each function has its name, as the bytes are."""
    count = len(bodies)
    table = number(len(names)) + b"".join(number(n) + number(len(name)) + name for n, name in enumerate(names))
    return save(
        b"\0asm\1\0\0\0"
        + section(1, b"\1\x60\0\0")
        + section(3, number(count) + b"\0" * count)
        + section(5, b"\1\0\1")
        + section(7, b"\2\6memory\2\0\2go\0" + number(count - 1))
        + section(10, number(count) + b"".join(number(len(body)) + body for body in bodies))
        + section(0, b"\4name\1" + number(len(table)) + table)
    )


@pytest.fixture(autouse=True)
def warns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests before these may have had the warnings of this minute."""
    monkeypatch.setattr(faults, "_warnings", faults._Warnings(100))


async def program(engine: Engine, path: Path) -> Program:
    return engine.link(await engine.load(path, digest(path)), [], GuestLimits(), WasiOptions())


async def told(engine: Engine, path: Path, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "insula.wasm"), pytest.raises(GuestError) as caught:
        await run(await program(engine, path), Steps("go"))
    assert "function" not in str(caught.value).replace("the guest called a function", "")
    return caplog.text


MANGLED = {
    "c++": nested(26),
    "c++ of 221 bytes": nested(22) + b"i",
    "rust": b"_ZN4core3fmt9Formatter9write_str17h0123456789abcdefE",
    "rust v0": b"_RNvC6_123foo3bar",
    "rust v0 that refers back": b"_RI" + b"C1aB_" * 20 + b"E",
    "long": b"x" * 90_000,
    "escapes": "\x1b[2J\x1b]0;title\x07\u202e\u2066evil\r\nERROR forged".encode(),
}


@pytest.mark.parametrize("name", MANGLED.values(), ids=MANGLED.keys())
async def test_names_are_told_raw_and_cut(engine: Engine, name: bytes, caplog: pytest.LogCaptureFixture) -> None:
    text = await told(engine, named(name), caplog)
    line = next(line for line in text.splitlines() if "function 0" in line)
    raw = name[:MAX_NAME].decode()
    assert "".join(c if c.isprintable() else "?" for c in raw) in line
    assert len(line) < MAX_NAME + 60
    assert ("…" in line) == (len(name) > MAX_NAME)
    assert not any(line.startswith("ERROR") for line in text.splitlines())


async def test_a_name_of_no_text_is_none(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    for name in (b"\xff\xfe" * 20, b"x" * 200_000, "é".encode()[:1]):
        assert "function 0" in await told(engine, named(name), caplog)


async def test_a_name_is_cut_between_two_bytes_of_a_letter(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    text = await told(engine, named(b"x" + "é".encode() * 100), caplog)
    assert "xéé" in text


def test_no_name_is_demangled() -> None:
    """In a process of its own: demangled, this name takes it seconds and more than a gigabyte."""
    script = """
import asyncio, resource, sys, tempfile, time
from pathlib import Path
from tests.wasm.test_contract import Steps, run
from tests.wasm.test_traps import NativeEngine, digest, named, nested, program

async def main():
    with tempfile.TemporaryDirectory() as folder:
        engine = await NativeEngine.open(Path(folder) / "cache")
        made = await program(engine, named(nested(28)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            await run(made, Steps("go"))
        except Exception as error:
            print(type(error).__name__, error)
        print("took", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, "MiB")
        await engine.close()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("GuestError the guest reached its unreachable instruction")
    assert int(second.split()[1]) < 200
    assert "_Z1f1aIiiES_IS0_S0_E" in done.stderr


async def test_frames_are_told_from_the_innermost_and_bounded(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    text = await told(engine, named(b"inner", b"outer", bodies=(TRAPS, CALLS)), caplog)
    lines = [line.split() for line in text.splitlines() if " function " in line]
    assert [(line[0], line[3], line[4]) for line in lines] == [("0:", "0", "inner"), ("1:", "1", "outer")]
    text = await told(engine, named(nested(26), bodies=(DEEP,)), caplog)
    assert "overflowed its stack" in text
    assert text.count(" function 0 ") == MAX_FRAMES


async def test_offsets_are_those_of_the_file_though_the_module_is_rewritten(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    path = wat(
        """(module (memory (export "memory") 1)
             (func $grow (drop (memory.grow (i32.const 1))))
             (func (export "go") (local i32) (call $grow) (drop (memory.grow (i32.const 1))) (unreachable)))"""
    )
    text = await told(engine, path, caplog)
    (line,) = (line for line in text.splitlines() if " function " in line)
    assert path.read_bytes()[int(line.split()[1], 16)] == 0, "that of the unreachable instruction"


@pytest.fixture
async def alone(cache: Path) -> Any:
    engine = await ENGINES["native"](cache)
    yield engine
    await engine.close()


async def test_an_error_with_a_backtrace_has_no_message(
    alone: NativeEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends a guest as an error, and no trap, has a backtrace in its message too."""
    monkeypatch.setattr(callbacks, "stop", lambda cell, error: library.new_trap(b"stopped", 7))
    path = wat(
        '(module (import "wasi_snapshot_preview1" "proc_exit" (func $x (param i32))) (memory (export "memory") 1)'
        '(func $named (export "go") (call $x (i32.const 1))))'
    )
    text = await told(alone, path, caplog)
    assert "the guest trapped" in text
    assert "function 1 named" in text
    assert "stopped" not in text


def test_debug_information_of_guests_is_not_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable would have wasmtime parse it at each trap, and refuse all code that was compiled without."""
    script = """
import asyncio, sys
from pathlib import Path
from tests.wasm.test_contract import Steps, run
from tests.wasm.test_traps import NativeEngine, named, program

async def main():
    engine = await NativeEngine.open(Path(sys.argv[1]))
    try:
        await run(await program(engine, named(b"x")), Steps("go"))
    except Exception as error:
        print(type(error).__name__)
    await engine.close()

asyncio.run(main())
"""
    monkeypatch.setenv("WASMTIME_BACKTRACE_DETAILS", "1")
    done = subprocess.run([sys.executable, "-c", script, str(cache)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "GuestError\n"), done.stderr


# Texts about modules


def test_a_long_type_is_told_by_its_numbers() -> None:
    assert str(Signature(("i32",) * 1000, ("i64",))) == "(1000 parameters) -> (1 results)"


@pytest.mark.parametrize("where", ["module", "name", "export"])
async def test_names_of_a_module_are_told_cut_and_printable(engine: Engine, where: str) -> None:
    bad = "\\1b[2J\\e2\\80\\ae" + "x" * 50_000
    if where == "export":
        text = f'(module (memory (export "memory") 1) (func (export "{bad}")) (func (export "{bad}")))'
    else:
        module, name = (bad, "f") if where == "module" else ("m", bad)
        text = f'(module (import "{module}" "{name}" (func)) (memory (export "memory") 1) (func (export "go")))'
    with pytest.raises(PackageError) as caught:
        await program(engine, wat(text))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 700
