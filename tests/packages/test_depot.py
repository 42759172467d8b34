from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from insula.errors import CallerError, Code, InsulaError, PackageError
from insula.kinds.okra import OkraKind
from insula.packages.depot import Depot
from tests.packages.archives import chunks_of, honest, package


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return honest(tmp_path)


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "depot", [OkraKind()])


def variant(files: dict[str, bytes], number: int) -> bytes:
    """Another package each time: its module carries the number in a custom section."""
    return package({**files, "service.wasm": files["service.wasm"] + bytes((0, 3, 1, 110, number))})


async def stream(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for chunk in chunks_of(data, size):
        yield chunk


def in_depot(folder: Path) -> list[str]:
    """Every file and folder of the depot, but for the empty waiting room."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path != folder / "incoming")


async def test_adds_a_stream_and_finds_it_again(depot: Depot, files: dict[str, bytes], tmp_path: Path) -> None:
    data = package(files)
    added = await depot.add(stream(data))
    assert added.digest == hashlib.sha256(data).hexdigest()
    assert added.parts.folder == tmp_path / "depot" / added.digest
    assert added.module.read_bytes() == files["service.wasm"]
    assert await Depot(tmp_path / "depot", [OkraKind()]).get(added.digest) == added
    assert list((tmp_path / "depot" / "incoming").iterdir()) == []


async def test_its_folder_is_this_users_alone_whatever_the_umask(
    depot: Depot, files: dict[str, bytes], tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        await depot.add(stream(package(files)))
    finally:
        os.umask(before)
    assert (tmp_path / "depot").stat().st_mode & 0o777 == 0o700


async def test_adds_a_file(depot: Depot, files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "x.okra.pkg").write_bytes(package(files))
    assert (await depot.add(tmp_path / "x.okra.pkg")).parts.config.name == "Greeter"
    with pytest.raises(CallerError, match="there is no file"):
        await depot.add(tmp_path / "nowhere.okra.pkg")


async def test_adding_again_changes_nothing(depot: Depot, files: dict[str, bytes], tmp_path: Path) -> None:
    first = await depot.add(stream(package(files)))
    inode = first.module.stat().st_ino
    assert await depot.add(stream(package(files))) == first
    assert first.module.stat().st_ino == inode


async def test_many_adds_at_once(depot: Depot, files: dict[str, bytes], tmp_path: Path) -> None:
    data = [variant(files, number) for number in (1, 1, 1, 2, 2, 3)]
    added = await asyncio.gather(*(depot.add(stream(one)) for one in data))
    assert [one.digest for one in added] == [hashlib.sha256(one).hexdigest() for one in data]
    assert sorted(path.name for path in (tmp_path / "depot").iterdir()) == sorted(
        {*(one.digest for one in added), "incoming"}
    )


async def test_a_bad_package_leaves_nothing(depot: Depot, files: dict[str, bytes], tmp_path: Path) -> None:
    for bad in (b"", b"garbage", package({**files, "okra.json": b"{}"}), package(files)[:-20]):
        with pytest.raises(PackageError):
            await depot.add(stream(bad))
    assert in_depot(tmp_path / "depot") == []


async def test_too_many_bytes_are_413(depot: Depot, files: dict[str, bytes], tmp_path: Path) -> None:
    data = package(files)
    with pytest.raises(CallerError, match="larger than 100 bytes") as refused:
        await depot.add(stream(data), max_bytes=100)
    assert refused.value.http_status == 413
    with pytest.raises(CallerError, match="larger than"):
        await Depot(tmp_path / "depot", [OkraKind()], max_bytes=len(data) - 1).add(stream(data))
    assert in_depot(tmp_path / "depot") == []
    await Depot(tmp_path / "depot", [OkraKind()], max_bytes=len(data)).add(stream(data))


async def test_a_stream_that_breaks_leaves_nothing(depot: Depot, files: dict[str, bytes], tmp_path: Path) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield package(files)[:500]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await depot.add(breaks())
    assert in_depot(tmp_path / "depot") == []


async def test_an_abandoned_upload_leaves_nothing(depot: Depot, files: dict[str, bytes], tmp_path: Path) -> None:
    waiting = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield bytes(3 << 20)
        waiting.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(depot.add(stalls()))
    await waiting.wait()
    assert await depot.sweep(()) == []
    assert len(list((tmp_path / "depot" / "incoming").iterdir())) == 1  # it is under way: not a leftover
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert in_depot(tmp_path / "depot") == []


@pytest.mark.parametrize("digest", ["", "x", "../../etc", "A" * 64, "a" * 63])
async def test_what_is_no_digest(depot: Depot, digest: str) -> None:
    with pytest.raises(CallerError, match="is not the digest"):
        await depot.get(digest)


async def test_what_is_not_here_is_not_found(depot: Depot) -> None:
    with pytest.raises(CallerError, match="there is no package sha256:aaaa") as refused:
        await depot.get("a" * 64)
    assert refused.value.http_status == 404


async def test_a_damaged_package_is_told_and_mended_by_adding(depot: Depot, files: dict[str, bytes]) -> None:
    added = await depot.add(stream(package(files)))
    added.module.write_bytes(b"rot")
    with pytest.raises(InsulaError, match=r"service\.wasm is not what was installed") as refused:
        await depot.get(added.digest)
    assert refused.value.code is Code.DATA_LOSS
    assert await depot.add(stream(package(files))) == added
    assert await depot.get(added.digest) == added


async def test_a_package_that_cannot_be_read_just_now_is_kept(
    depot: Depot, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    added = await depot.add(stream(package(files)))

    def fails(self: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fails)
        with pytest.raises(InsulaError, match="could not read or write"):
            await depot.add(stream(package(files)))
    assert await depot.get(added.digest) == added


async def test_sweeps_what_nobody_needs(depot: Depot, files: dict[str, bytes], tmp_path: Path) -> None:
    one, two, three = [await depot.add(stream(variant(files, number))) for number in (1, 2, 3)]
    (tmp_path / "depot" / "incoming" / "left").mkdir()
    (tmp_path / "depot" / "incoming" / "left" / "over").write_bytes(b"x")
    assert await depot.sweep({two.digest}) == sorted((one.digest, three.digest))
    assert await depot.get(two.digest) == two
    assert list((tmp_path / "depot" / "incoming").iterdir()) == []
    assert await Depot(tmp_path / "never made", [OkraKind()]).sweep(()) == []


async def test_a_failing_disk_is_told_without_its_paths(
    depot: Depot, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error", str(tmp_path))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(InsulaError, match="could not read or write its packages") as refused:
        await depot.add(stream(package(files)))
    assert refused.value.code is Code.INTERNAL
    assert str(tmp_path) not in str(refused.value)
    assert in_depot(tmp_path / "depot") == []


async def test_everything_is_flushed_before_it_has_its_name(
    depot: Depot, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    added = await depot.add(stream(package({**files, "migrations/1.sql": b"select 1"})))
    before, after = flushed[:-1], flushed[-1]
    assert after == tmp_path / "depot"  # the folder that now has the name in it
    content = next(path.parent for path in before if path.name == "service.wasm")
    assert content.is_relative_to(tmp_path / "depot" / "incoming")
    assert {path.relative_to(content) for path in before if path.is_relative_to(content)} == {
        Path(),
        *(path.relative_to(added.parts.folder) for path in added.parts.folder.rglob("*")),
    }


_ON_FULL_DISK = """
import asyncio, os, pathlib, sys
from insula.errors import InsulaError
from insula.kinds.okra import OkraKind
from insula.packages.depot import Depot
folder = pathlib.Path(sys.argv[1])
data = pathlib.Path(sys.argv[2]).read_bytes()
async def stream():
    yield data
async def main():
    depot = Depot(folder / "depot", [OkraKind()])
    filler = open(folder / "filler", "wb", buffering=0)
    try:
        while filler.write(bytes(4096)): pass
    except OSError: pass
    told = set()
    while True:
        try:
            await depot.add(stream())
            break
        except InsulaError as error:
            told.add((error.code.value, error.http_status, error.reason))
        left = [p.name for p in (folder / "depot").rglob("*")] if (folder / "depot").exists() else []
        assert left in ([], ["incoming"]), left
        filler.truncate(filler.tell() - 4096); filler.seek(0, 2)
    print(sorted(told))
asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount of its own")
def test_a_full_disk_is_507_and_leaves_nothing(files: dict[str, bytes], tmp_path: Path) -> None:
    """On a real file system of 300 KiB, given back one page at a time until the package fits."""
    big = tmp_path / "big.okra.pkg"
    big.write_bytes(package({**files, "service.wasm": files["service.wasm"] + os.urandom(60_000)}))
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = 'mount -t tmpfs -o size=300k none "$0" && exec "$1" -c "$2" "$0" "$3"'
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", inside, str(disk), sys.executable, _ON_FULL_DISK, str(big)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip("this machine lets nobody mount")
    assert ran.stderr == ""
    assert ran.stdout == "[('resource_exhausted', 507, 'no_room')]\n"


_DYING = """
import asyncio, os, pathlib, signal, sys
from insula.kinds.okra import OkraKind
from insula.packages.depot import Depot
folder, data = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes()
steps, dies_at = 0, None
def step(event, args):
    # Every opening, making, renaming and removing of a file below the folder is a moment to die at.
    global steps
    if dies_at is not None and args and isinstance(args[0], (str, os.PathLike)) and str(folder) in str(args[0]):
        steps += 1
        if steps >= dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
async def stream():
    yield data
async def life():
    depot = Depot(folder, [OkraKind()])
    package = await depot.add(stream())
    await depot.sweep(())
def load():  # what a first package imports, before the first child is made
    import insula.schema.check, insula.schema.descriptors, insula.schema.grammar, insula.schema.idl, protobuf.wkt
load()
dies_at_now, deaths, kept = 1, 0, 0
while True:
    child = os.fork()
    if not child:
        dies_at = dies_at_now
        asyncio.run(life())
        os._exit(0)
    died = os.waitpid(child, 0)[1] != 0
    async def after():
        global kept
        depot = Depot(folder, [OkraKind()])
        for place in folder.iterdir() if folder.exists() else ():
            if place.name != "incoming":
                await depot.get(place.name)  # whole, or it raises
                kept += 1
        await depot.sweep(())
        assert not folder.exists() or [p.name for p in folder.rglob("*")] in ([], ["incoming"])
    asyncio.run(after())
    deaths += died
    if not died:
        break
    dies_at_now += 1
print(deaths, kept)
"""


def test_killed_at_each_step_nothing_is_half_installed(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "x.okra.pkg").write_bytes(package(files))
    ran = subprocess.run(
        [sys.executable, "-c", _DYING, str(tmp_path / "depot"), str(tmp_path / "x.okra.pkg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    deaths, kept = map(int, ran.stdout.split())
    assert deaths > 30
    assert kept > 3
