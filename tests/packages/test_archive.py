from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insula.errors import PackageError
from insula.packages.archive import Extracted, extract
from insula.packages.gzipped import ArchiveLimits
from tests.packages.archives import member, packed, tar

WANTED = {"a.json": 1000, "b.bin": 5000, "sub/c.sql": 1000}


def take(data: bytes, into: Path, limits: ArchiveLimits | None = None) -> Extracted:
    into.mkdir(exist_ok=True)
    return extract(io.BytesIO(data), into, WANTED.get, limits)


def on_disk(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_takes_what_is_wanted_and_passes_the_rest_over(tmp_path: Path) -> None:
    data = packed(member("a.json", b"{}"), member("README", b"hello"), member("sub/c.sql", b"1"), member("x/y/z", b"2"))
    assert take(data, tmp_path) == Extracted({"a.json": 2, "sub/c.sql": 1}, ("README", "x/y/z"))
    assert on_disk(tmp_path) == {"a.json": b"{}", "sub/c.sql": b"1"}


@pytest.mark.parametrize("prefix", ["./", "././", "service.okra.pkg/", "./service.okra.pkg/"])
def test_a_dot_or_one_folder_around_everything(tmp_path: Path, prefix: str) -> None:
    folder = member(prefix, kind=tarfile.DIRTYPE)
    data = packed(folder, member(prefix + "sub/c.sql", b"1"), member(prefix + "a.json", b"{}"), member(prefix + "x"))
    assert take(data, tmp_path) == Extracted({"sub/c.sql": 1, "a.json": 2}, ("x",))
    assert on_disk(tmp_path) == {"a.json": b"{}", "sub/c.sql": b"1"}


def test_the_top_counts_before_a_folder(tmp_path: Path) -> None:
    data = packed(member("old/a.json", b"old"), member("a.json", b"new"), member("old/b.bin", b"old"))
    assert take(data, tmp_path).files == {"a.json": 3}
    assert on_disk(tmp_path) == {"a.json": b"new"}


def test_two_packages_in_one_archive_are_none(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="a package in each of 'one', 'two'"):
        take(packed(member("one/a.json"), member("two/a.json")), tmp_path)


def test_shadows_are_passed_over(tmp_path: Path) -> None:
    data = packed(
        member("./", kind=tarfile.DIRTYPE),
        member("./._.", b"Mac"),
        member("./._a.json", b"shadow"),
        member("./a.json", b"{}"),
        member("__MACOSX/a.json", b"shadow"),
        member("__MACOSX/._a.json", b"shadow"),
        member("sub/._c.sql", b"shadow"),
        member("sub/c.sql", b"1"),
        member("sub/.DS_Store", b"shadow"),
        member("PaxHeaders.42/a.json", b"shadow"),
        member("sub/PaxHeaders/c.sql", b"shadow"),
    )
    assert take(data, tmp_path) == Extracted({"a.json": 2, "sub/c.sql": 1}, ())
    assert on_disk(tmp_path) == {"a.json": b"{}", "sub/c.sql": b"1"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (member("/a.json"), "leads out of it"),
        (member("../a.json"), "leads out of it"),
        (member("sub/../../a.json"), "leads out of it"),
        (member("sub/.."), "leads out of it"),
        (member("C:/a.json"), "leads out of it"),
        (member("c:a.json"), "leads out of it"),
        (member("sub\\a.json"), "backslash"),
        (member("..\\..\\a.json"), "backslash"),
        (member("a\n.json"), "control character"),
        (member("a.json\x7f"), "control character"),
        (member("a.json", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), "a symbolic link"),
        (member("._a.json", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), "a symbolic link"),
        (member("a.json", kind=tarfile.LNKTYPE, linkname="b.bin"), "a hard link"),
        (member("a.json", kind=tarfile.CHRTYPE), "a device"),
        (member("a.json", kind=tarfile.BLKTYPE), "a device"),
        (member("a.json", kind=tarfile.FIFOTYPE), "a fifo"),
        (member("a.json", kind=b"S"), "a sparse file"),
        (member("a.json", kind=b"V"), "neither a file nor a folder"),
        (member("sub", b"content", kind=tarfile.DIRTYPE), "has content"),
        (member("/".join("d" * 40)), "more than 16 deep"),
        (member("a.json", b"x" * 1001), "a.json in the package is larger than 1000 bytes"),
        (member("."), "has no name"),
    ],
)
def test_refuses(tmp_path: Path, entry: tuple[tarfile.TarInfo, bytes], said: str) -> None:
    with pytest.raises(PackageError, match=said):
        take(packed(entry), tmp_path)
    assert on_disk(tmp_path) == {}


def test_a_nul_in_a_long_name(tmp_path: Path) -> None:
    name = member("h", b"16 path=a\0.json\n", kind=b"x")
    with pytest.raises(PackageError, match="control character"):
        take(packed(name, member("x")), tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a.json", "a.json"), "twice"),
        (("a.json", "./a.json"), "twice"),
        (("README", "x/..y/z", "README"), "twice"),
        (("a.json", "A.JSON"), "differ by their spelling"),
        (("Sub/x", "sub/c.sql"), "differ by their spelling"),
        (("caf\u00e9", "cafe\u0301"), "differ by their spelling"),
        (("a.json", "a.json/x"), "both a file and a folder"),
        (("sub/c.sql", "sub"), "both a file and a folder"),
    ],
)
def test_a_name_comes_once(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(PackageError, match=said):
        take(packed(*map(member, names)), tmp_path)


def test_folders_may_come_again(tmp_path: Path) -> None:
    folder = member("sub", kind=tarfile.DIRTYPE)
    assert take(packed(folder, member("sub/c.sql", b"1"), folder), tmp_path).files == {"sub/c.sql": 1}


def test_a_hundred_thousand_entries(tmp_path: Path) -> None:
    folder = tar(member("folder", kind=tarfile.DIRTYPE))[:512]
    with pytest.raises(PackageError, match="more than 2000 entries"):
        take(gzip.compress(folder * 100_000, 1), tmp_path)


_NAMES = st.text(st.sampled_from("ab./\\:._\0\u00e9A"), max_size=12)
_KINDS = st.sampled_from([tarfile.REGTYPE] * 5 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_nothing_escapes(tmp_path: Path, draw: st.DataObject) -> None:
    into = tmp_path / "into"
    into.mkdir(exist_ok=True)
    names = st.one_of(_NAMES, st.sampled_from([*WANTED, "../a.json", "x/a.json", "/tmp/a.json", "._a.json", "sub"]))
    entries = draw.draw(st.lists(st.tuples(names, _KINDS, st.binary(max_size=40)), max_size=8))
    archive = bytearray(
        tar(*(member(name, b if kind == tarfile.REGTYPE else b"", kind, linkname="/etc") for name, kind, b in entries))
    )
    if draw.draw(st.booleans()):
        archive[draw.draw(st.integers(0, len(archive) - 1))] = draw.draw(st.integers(0, 255))
    packed_bytes = bytearray(gzip.compress(bytes(archive)))
    if draw.draw(st.booleans()):
        packed_bytes[draw.draw(st.integers(0, len(packed_bytes) - 1))] ^= draw.draw(st.integers(1, 255))
    try:
        files = take(bytes(packed_bytes), into).files
    except PackageError:
        files = None
    everything = [path for path in tmp_path.rglob("*") if path != into]
    assert all(into in path.parents and not path.is_symlink() for path in everything)
    if files is not None:
        assert {str(p.relative_to(into)) for p in everything if p.is_file()} == set(files) <= set(WANTED)
    for path in sorted(everything, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
