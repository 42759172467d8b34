"""Modules: compiled once, in a child process with bounds, and found again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from insula.errors import Code, ConfigurationError, InsulaError, LimitError, PackageError, UnavailableError
from insula.wasm import compile as child
from insula.wasm.cache import CodeCache
from insula.wasm.compiler import Compiler
from insula.wasm.config import FINGERPRINT
from insula.wasm.contract import GuestLimits, Signature, WasiOptions
from insula.wasm.engine import NativeEngine
from insula.wasm.facts import Facts
from insula.wasm.modules import Modules
from tests.guests import build_c, digest, save, wat

SMALL = """(module (import "a" "b" (func (param i32 f64) (result i64))) (memory (export "memory") 1 3)
             (global (export "g") i32 (i32.const 1)) (func (export "f") (param i64 f32) (result i32 i32) unreachable))"""


def number(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + number(len(content)) + content


def slow_module(functions: int, length: int) -> Path:
    """A valid module that takes long to compile: many functions of one long computation each."""
    body = b"\x01\x01\x7f" + b"\x20\x00\x41\x07\x6c\x41\x03\x6a\x22\x00\x21\x00" * length + b"\x20\x00\x0b"
    types = section(1, number(1) + b"\x60\x01\x7f\x01\x7f")
    code = number(functions) + (number(len(body)) + body) * functions
    return save(b"\0asm\1\0\0\0" + types + section(3, number(functions) + b"\0" * functions) + section(10, code))


class Counting(Compiler):
    """Counts what it compiles."""

    count = 0

    async def compile(self, source: Path, digest: str, target: Path) -> Facts:
        self.count += 1
        return await super().compile(source, digest, target)


def suffixes(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def replace(path: Path, content: bytes) -> None:
    """As a tool that writes files would: what is mapped stays as it was."""
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


async def until_a_child_works() -> None:
    while not await asyncio.to_thread(children):  # noqa: ASYNC110
        await asyncio.sleep(0)


def damaged(folder: Path, damage: str) -> tuple[Path, bytes]:
    """Does that to the one file of code, and gives what it was."""
    (code,) = folder.glob("*.cwasm")
    content = code.read_bytes()
    match damage:
        case "cut":
            replace(code, content[:-100])
        case "flip":
            replace(code, content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
        case "garbage":
            replace(code, b"x" * 1000)
            code.with_suffix(".facts").write_text(Facts(hashlib.sha256(b"x" * 1000).hexdigest()).text())
        case "empty":
            replace(code, b"")
        case "no note":
            code.with_suffix(".facts").unlink()
        case _:
            code.unlink()
    return code, content


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if "insula.wasm.compile" in process.cmdline():
                found.append(process)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "code"


@pytest.fixture
def compiler() -> Counting:
    return Counting()


@pytest.fixture
async def modules(folder: Path, compiler: Compiler) -> AsyncIterator[Modules]:
    modules = Modules(CodeCache(folder, FINGERPRINT, 1 << 30), compiler)
    yield modules
    await modules.close()


def again(folder: Path, compiler: Compiler) -> Modules:
    """The same folder as another server would open it."""
    return Modules(CodeCache(folder, FINGERPRINT, 1 << 30), compiler)


async def load(modules: Modules, path: Path) -> None:
    (await modules.load(path, digest(path))).close()


async def test_what_a_module_has_is_read_from_it(modules: Modules) -> None:
    path = wat(SMALL)
    module = await modules.load(path, digest(path))
    assert module.exports == {"f": Signature(("i64", "f32"), ("i32", "i32"))}
    assert module.imports == [("a", "b")]
    assert module.code.imports[0].signature == Signature(("i32", "f64"), ("i64",))
    assert (module.has_memory, module.code.memory_bytes, module.code.memory_most) == (True, 65536, 3 * 65536)
    module.close()
    module.close()
    assert module.code.users == 0


async def test_it_is_compiled_once_and_found_again(modules: Modules, folder: Path, compiler: Counting) -> None:
    path = wat(SMALL)
    first, second, third = await asyncio.gather(*(modules.load(path, digest(path)) for _ in range(3)))
    assert first.code is second.code is third.code
    assert compiler.count == 1
    await load(again(folder, compiler), path)
    assert compiler.count == 1
    assert suffixes(folder) == [".cwasm", ".facts"]


@pytest.mark.parametrize("damage", ["cut", "flip", "garbage", "empty", "no note", "gone"])
async def test_damaged_code_is_made_again(modules: Modules, folder: Path, compiler: Counting, damage: str) -> None:
    path = wat(SMALL)
    await load(modules, path)
    code, content = damaged(folder, damage)
    await load(again(folder, compiler), path)
    assert compiler.count == 2
    assert code.read_bytes() == content


async def test_code_of_another_engine_is_not_looked_at(folder: Path, compiler: Counting) -> None:
    path = wat(SMALL)
    await load(again(folder, compiler), path)
    await load(Modules(CodeCache(folder, "0" * 16, 1 << 30), compiler), path)
    assert compiler.count == 2


@pytest.mark.parametrize("wrong", ["mode", "link"])
def test_a_folder_that_others_can_write_is_not_used(folder: Path, tmp_path: Path, wrong: str) -> None:
    cache = CodeCache(folder, FINGERPRINT, 1 << 30)
    if wrong == "mode":
        folder.mkdir(mode=0o770)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="open to other users"):
        cache.prepare()


async def test_whoever_deploys_is_not_told_where_the_folder_is(
    modules: Modules, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(mode=0o770)
    folder.chmod(0o770)
    with pytest.raises(InsulaError) as refused:
        await modules.load(wat(SMALL), digest(wat(SMALL)))
    assert (refused.value.code, str(folder) in str(refused.value)) == (Code.INTERNAL, False)
    assert f"chmod 700 {folder}" in caplog.text


def test_the_folder_is_made_for_us_alone(folder: Path) -> None:
    CodeCache(folder, FINGERPRINT, 1 << 30).prepare()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_name_that_is_no_digest_goes_nowhere(modules: Modules) -> None:
    with pytest.raises(InsulaError, match="64 hexadecimal"):
        await modules.load(wat(SMALL), "../" + "0" * 61)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not WebAssembly"),
        (b"garbage", "not WebAssembly"),
        (b"\0asm\x0d\0\1\0", "not a WebAssembly core module"),
        (b"\0asm\1\0\0\0\1\xff", "no valid WebAssembly module"),
        (b"\0asm\1\0\0\0" + b"\xff" * 1000, "no valid WebAssembly module"),
    ],
)
async def test_garbage_is_named(modules: Modules, folder: Path, content: bytes, message: str) -> None:
    path = save(content)
    with pytest.raises(PackageError, match=message):
        await modules.load(path, digest(path))
    assert not suffixes(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(module (memory i64 1))", "memory64"),
        ("(module (memory 1 2 shared))", "threads"),
        ("(module (memory 1) (memory 1))", "multi"),
        ("(module (tag))", "exceptions"),
    ],
)
async def test_what_is_switched_off_is_refused(modules: Modules, text: str, message: str) -> None:
    path = wat(text)
    with pytest.raises(PackageError, match=message):
        await modules.load(path, digest(path))


async def test_too_many_exports(modules: Modules) -> None:
    many = "".join(f'(export "{n}" (func 0))' for n in range(child.MAX_EXPORTS + 1))
    path = await asyncio.to_thread(wat, f"(module (func) {many})")
    with pytest.raises(PackageError, match="10001 exports"):
        await modules.load(path, digest(path))


async def test_another_file_than_announced(modules: Modules) -> None:
    with pytest.raises(PackageError, match="sha256 differs"):
        await modules.load(wat(SMALL), "0" * 64)


async def test_a_module_that_takes_too_long(folder: Path) -> None:
    path = await asyncio.to_thread(slow_module, 20, 30_000)
    modules = again(folder, Compiler(timeout=0.6))
    with pytest.raises(PackageError, match=r"more than 0\.6 s to compile"):
        await modules.load(path, digest(path))
    assert not suffixes(folder)
    assert not children()


async def test_a_module_that_takes_too_much_memory(folder: Path) -> None:
    path = await asyncio.to_thread(slow_module, 2, 80_000)
    modules = again(folder, Compiler(memory=280 << 20))
    with pytest.raises(PackageError, match="more than 280 MiB to compile"):
        await modules.load(path, digest(path))
    assert not suffixes(folder)


async def test_a_compilation_that_nobody_waits_for_is_given_up(modules: Modules, folder: Path) -> None:
    path = await asyncio.to_thread(slow_module, 20, 30_000)
    first = asyncio.create_task(modules.load(path, digest(path)))
    second = asyncio.create_task(modules.load(path, digest(path)))
    await until_a_child_works()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await asyncio.to_thread(children)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    await modules.close()
    assert not await asyncio.to_thread(children)
    assert not suffixes(folder)


async def test_closing_gives_up_compilations(folder: Path) -> None:
    path = await asyncio.to_thread(slow_module, 20, 30_000)
    engine = await NativeEngine.open(folder)
    loading = asyncio.create_task(engine.load(path, digest(path)))
    await until_a_child_works()
    await engine.close()
    with pytest.raises(UnavailableError):
        await loading
    assert not await asyncio.to_thread(children)


async def test_at_most_so_many_compile_at_once(folder: Path) -> None:
    modules = again(folder, Compiler(at_once=1))
    paths = [wat(f"(module (func (result i32) (i32.const {n})))") for n in range(3)]
    most = 0
    loads = [asyncio.create_task(load(modules, path)) for path in paths]
    while not all(task.done() for task in loads):
        most = max(most, len(await asyncio.to_thread(children)))
    await asyncio.gather(*loads)
    assert most == 1


async def test_a_full_disk(modules: Modules, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CodeCache, "keep", full)
    path = wat(SMALL)
    with pytest.raises(LimitError, match="no room on the disk") as caught:
        await modules.load(path, digest(path))
    assert caught.value.http_status == 507
    assert not suffixes(folder)


async def test_code_that_was_deleted_while_in_use_goes_on(folder: Path) -> None:
    engine = await NativeEngine.open(folder)
    path = await asyncio.to_thread(build_c, "onecall.c")
    module = await engine.load(path, digest(path))
    program = engine.link(module, [], GuestLimits(), WasiOptions())
    (await program.instantiate()).close()
    await asyncio.to_thread(shutil.rmtree, folder)
    (await program.instantiate()).close()
    await engine.close()


def put(cache: CodeCache, digest: str, code: bytes) -> Path:
    draft = cache.draft(digest)
    draft.write_bytes(code)
    return cache.keep(digest, draft, Facts(hashlib.sha256(code).hexdigest()))


def test_the_oldest_code_is_swept_and_none_that_is_used(folder: Path) -> None:
    cache = CodeCache(folder, "f" * 16, 2500)
    cache.prepare()
    digests = [letter * 64 for letter in "abcd"]
    for age, name in enumerate(digests):
        path = put(cache, name, b"x" * 1000)
        os.utime(path, (1000 + age, 1000 + age))
    draft = cache.draft("e" * 64)
    draft.write_bytes(b"")
    note = path.with_suffix(".sha256")  # of an older version of the server
    note.write_text("x")
    for left in (draft, note):
        os.utime(left, (1000, 1000))
    cache.sweep({digests[0]})
    assert [cache.find(name) is not None for name in digests] == [True, False, False, True]
    assert not draft.exists()
    assert not note.exists()


async def test_one_of_many_who_wait_closes_it_before_the_others_have_it(folder: Path, compiler: Compiler) -> None:
    modules, path = Modules(CodeCache(folder, FINGERPRINT, 1 << 30), compiler), wat(SMALL)

    async def open_and_close() -> None:
        module = await modules.load(path, digest(path))
        assert not module.code.gone
        module.close()
        assert module.code.gone

    await asyncio.gather(*(open_and_close() for _ in range(5)))
