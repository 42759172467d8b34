from __future__ import annotations

import os
from contextlib import aclosing
from pathlib import Path

import pytest

from insula.errors import CallerError, Code
from insula.packages.files import read_file


async def read(file: Path, roots: list[Path] | None = None) -> bytes:
    async with aclosing(read_file(file, roots)) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("in", "out"):
        (tmp_path / name / "x.okra.pkg").write_bytes(name.encode() * 700_000)
    return tmp_path / "in"


async def test_reads_a_file(inside: Path) -> None:
    assert await read(inside / "x.okra.pkg") == b"in" * 700_000
    assert await read(inside / "x.okra.pkg", [inside.parent / "other", inside]) == b"in" * 700_000


async def test_a_link_within_the_roots_is_followed(inside: Path) -> None:
    (inside / "link").symlink_to(inside / "x.okra.pkg")
    (inside.parent / "root").symlink_to(inside)
    assert await read(inside / "link", [inside.parent / "root"]) == b"in" * 700_000


@pytest.mark.parametrize(
    "name", ["../out/x.okra.pkg", "../out/nothing", "link", "folder/x.okra.pkg", "loop", "/etc/passwd"]
)
async def test_nothing_outside_the_roots(inside: Path, name: str) -> None:
    (inside / "link").symlink_to("../out/x.okra.pkg")
    (inside / "folder").symlink_to("../out")
    (inside / "loop").symlink_to("loop")
    with pytest.raises(CallerError, match="does not lie below the folders") as refused:
        await read(inside / name, [inside])
    assert refused.value.code is Code.PERMISSION_DENIED


async def test_what_is_missing(inside: Path) -> None:
    for file in (inside / "nothing", inside / "x.okra.pkg" / "below"):
        with pytest.raises(CallerError, match="there is no file") as refused:
            await read(file, [inside])
        assert refused.value.http_status == 404


async def test_a_folder_a_fifo_and_a_device_are_refused_at_once(inside: Path) -> None:
    os.mkfifo(inside / "fifo")
    for file in (inside, inside / "fifo", Path("/dev/zero")):
        with pytest.raises(CallerError, match="is not a plain file"):
            await read(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_what_the_server_may_not_read(inside: Path) -> None:
    (inside / "x.okra.pkg").chmod(0)
    with pytest.raises(CallerError, match="cannot read") as refused:
        await read(inside / "x.okra.pkg")
    assert refused.value.code is Code.PERMISSION_DENIED


async def test_no_handle_stays_open(inside: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        async with aclosing(read_file(inside / "x.okra.pkg")) as chunks:
            await anext(chunks)
        with pytest.raises(CallerError):
            await read(inside)
    assert len(os.listdir("/proc/self/fd")) == before
