from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.errors import PackageError
from insula.packages.gzipped import ArchiveLimits
from insula.packages.tar import BLOCK, entries
from tests.packages.archives import member, tar

LONG = "a" * 90 + "/" + "b" * 60 + "/" + "c" * 120 + ".sql"


def read(data: bytes, limits: ArchiveLimits | None = None) -> list[tuple[str, str, bytes]]:
    return [(e.name, e.kind, b"".join(e.chunks())) for e in entries(io.BytesIO(data), limits or ArchiveLimits())]


def with_header(data: bytes, at: int, value: bytes) -> bytes:
    """The first header with some bytes replaced and its checksum made right again."""
    header = bytearray(data[:BLOCK])
    header[at : at + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[BLOCK:]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(data=st.binary(max_size=1500))
@settings(max_examples=30)
def test_reads_what_each_format_writes(kind: int, data: bytes) -> None:
    archive = tar(member("a/b.txt", data), member("dir", kind=tarfile.DIRTYPE), member("empty"), format=kind)
    assert read(archive) == [("a/b.txt", "0", data), ("dir/", "5", b""), ("empty", "0", b"")]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(kind: int) -> None:
    archive = tar(member(LONG, b"x"), member("größe/über.txt", b"y"), format=kind)
    assert [name for name, *_ in read(archive)] == [LONG, "größe/über.txt"]


def test_ustar_prefix() -> None:
    name = "p" * 120 + "/file"
    assert read(tar(member(name, b"z"), format=tarfile.USTAR_FORMAT)) == [(name, "0", b"z")]


def test_content_that_nobody_reads_is_skipped() -> None:
    archive = tar(member("one", b"1" * 2000), member("two", b"2"))
    assert [e.name for e in entries(io.BytesIO(archive), ArchiveLimits())] == ["one", "two"]


def test_an_old_tar_marks_a_folder_by_its_slash() -> None:
    assert read(with_header(tar(member("old")), 0, b"old/\0"))[0][1] == "5"


def test_pax_may_give_the_size() -> None:
    archive = tar(member("big", b"12345", pax_headers={"size": "5", "comment": "x"}), format=tarfile.PAX_FORMAT)
    assert read(archive) == [("big", "0", b"12345")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut off"),
        (tar(member("a", b"1"))[: BLOCK * 2], "cut off"),
        (tar(member("a", b"1" * 900))[: BLOCK + 100], "cut off"),
        (b"\x01" * BLOCK, "number in its archive|checksum"),
        (tar(member("a"))[:100] + b"X" + tar(member("a"))[101:], "checksum"),
        (tar(member("a")) + tar(member("b")), "behind the end of its archive"),
        (tar() + b"x", "behind the end of its archive"),
        (with_header(tar(member("a")), 124, b"-0000000001\0"), "number in its archive"),
        (with_header(tar(member("a")), 124, b"\xff" * 12), "number in its archive"),
        (with_header(tar(member("a")), 124, b"\x80" + b"\x7f" * 11), "cut off"),
        (with_header(tar(member("a")), 0, b"\xff\xfe"), "not UTF-8"),
        (tar(member("x" * 3000)), "a name of more than 512 bytes"),
        (tar(member("a", pax_headers={"GNU.sparse.major": "1"}), format=tarfile.PAX_FORMAT), "sparse"),
        (tar(member("a", pax_headers={"size": "-5"}), format=tarfile.PAX_FORMAT), "number in its archive"),
        (tar(member("h", b"x" * 300_000, kind=b"x"), member("a")), "extended header of more than 256 KiB"),
        (tar(member("h", b"x" * 300_000, kind=b"L"), member("a")), "extended header of more than 256 KiB"),
        (tar(member("h", b"not a record", kind=b"x"), member("a")), "extended header of its archive|number"),
        (tar(member("h", b"99 path=x\n", kind=b"x"), member("a")), "extended header of its archive"),
        (tar(member("h", b"0 path=x\n", kind=b"x"), member("a")), "extended header of its archive"),
        (tar(member("h", b"10 path=x\n", kind=b"g"), member("a")), "all of its entries one name"),
        (tar(member("h", b"long", kind=b"L")), "without its file"),
    ],
)
def test_refuses(data: bytes, said: str) -> None:
    with pytest.raises(PackageError, match=said):
        read(data)


def test_entries_are_counted_whatever_they_are() -> None:
    with pytest.raises(PackageError, match="more than 3 entries"):
        read(tar(*(member(f"{n}") for n in range(4))), ArchiveLimits(entries=3))
    with pytest.raises(PackageError, match="more than 3 entries"):
        read(tar(*(member("h", b"10 path=x\n", kind=b"x") for _ in range(4))), ArchiveLimits(entries=3))


@settings(max_examples=200)
@given(st.data())
def test_mutated_archives_raise_nothing_else(draw: st.DataObject) -> None:
    kind = draw.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    data = bytearray(tar(member("a/b", b"content"), member(LONG, b"1"), format=kind))
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        read(bytes(data))
    except PackageError:
        pass


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_extended_header_is_read_or_refused(body: bytes) -> None:
    try:
        read(tar(member("h", body, kind=b"x"), member("a", b"1")))
    except PackageError:
        pass
