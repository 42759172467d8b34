from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from insula.errors import Code, InsulaError
from insula.packages.installed import RECORD, read_installed, settle
from insula.packages.okra import load_package, unpack
from insula.packages.package import Package
from tests.packages.archives import honest, package

DIGEST = "a" * 64


@pytest.fixture
def settled(tmp_path: Path) -> Package:
    files = honest(tmp_path, migrations={"002_b.sql": b"b", "001_a.sql": b"a"})
    (tmp_path / "x.okra.pkg").write_bytes(package(files))
    folder = tmp_path / DIGEST
    folder.mkdir()
    unpack(tmp_path / "x.okra.pkg", folder)
    found = load_package(folder, DIGEST)
    settle(found)
    return found


def test_reads_back_what_was_settled(settled: Package) -> None:
    assert read_installed(settled.folder, DIGEST) == settled


@pytest.mark.parametrize(
    "name",
    [
        "service.wasm",
        "okra.json",
        "service.description.json",
        "service.pb.desc",
        "migrations/001_a.sql",
        RECORD,
    ],
)
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_bit_rot_is_found(settled: Package, name: str, how: str) -> None:
    file = settled.folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(data if how == "flipped" else data[: len(data) // 2])
    with pytest.raises(InsulaError, match="damaged") as refused:
        read_installed(settled.folder, DIGEST)
    assert refused.value.code is Code.DATA_LOSS
    assert str(settled.folder) not in str(refused.value)


def test_a_folder_under_another_digest_is_damage(settled: Package) -> None:
    with pytest.raises(InsulaError, match="damaged"):
        read_installed(settled.folder, "b" * 64)


def test_another_form_is_named_as_such(settled: Package) -> None:
    record = settled.folder / RECORD
    record.write_bytes(record.read_bytes().replace(b'"form":1', b'"form":2'))
    with pytest.raises(InsulaError, match="another version of this server") as refused:
        read_installed(settled.folder, DIGEST)
    assert refused.value.code is Code.FAILED_PRECONDITION


def test_a_start_loads_nothing_heavy(settled: Package) -> None:
    """What reads an installed package imports no parser, no protobuf, no HTTP client."""
    script = (
        "import asyncio, sys, pathlib\n"
        "from insula.kinds.okra import OkraKind\n"
        "from insula.packages.depot import Depot\n"
        "from insula.packages.sources import Sources\n"
        f"depot = Depot(pathlib.Path({str(settled.folder.parent)!r}), [OkraKind()])\n"
        f"print(asyncio.run(Sources(depot).fetch('depot:sha256:{DIGEST}')).service_id)\n"
        "print([name for name in ('graphql', 'protobuf', 'httpx', 'obstore', 'tarfile') if name in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert out.split("\n")[:2] == ["demo.Greeter.v1", "[]"]
