from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insula.errors import PackageError
from insula.packages.okra import SIZES, load_package, unpack
from insula.packages.package import Package
from tests.packages.archives import IDL, WASM, changed, files_of, honest, member, package, packed


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return honest(tmp_path, migrations={"002_b.sql": b"b", "001_a.sql": b"create table a(b)"})


def read(data: bytes, tmp_path: Path) -> Package:
    archive, into = tmp_path / "read.okra.pkg", tmp_path / "read"
    archive.write_bytes(data)
    into.mkdir(exist_ok=True)
    unpack(archive, into)
    return load_package(into, "d" * 64)


def test_an_honest_package(files: dict[str, bytes], tmp_path: Path) -> None:
    found = read(package(files), tmp_path)
    assert str(found.service_id) == "demo.Greeter.v1"
    assert found.digest == "d" * 64
    assert found.wasm.read_bytes() == WASM
    assert found.migrations == ("001_a.sql", "002_b.sql")
    assert found.descriptor == files["service.pb.desc"]
    assert [method.name for method in found.schema.service.methods] == ["greet", "listMoods", "shutdown", "leave"]


def test_the_idl_may_be_left_out_and_the_project_be_named(files: dict[str, bytes], tmp_path: Path) -> None:
    least = changed(files, service_okra_gql=None, okra_json=b'{"name": "my-project", "version": "0.1"}')
    assert str(read(package(least), tmp_path).service_id) == "demo.Greeter.v1"


def test_our_own_descriptor_is_what_counts(files: dict[str, bytes], tmp_path: Path) -> None:
    found = read(package(changed(files, service_pb_desc=b"\x0a\x08\x0a\x06x.prot")), tmp_path)
    assert found.descriptor == files["service.pb.desc"]


def test_made_on_a_mac(files: dict[str, bytes], tmp_path: Path) -> None:
    """Shadow files before and behind the real ones, `./` in front of every name."""
    members = [member("./", kind=tarfile.DIRTYPE), member("./migrations/", kind=tarfile.DIRTYPE)]
    for name, data in files.items():
        folder, _, last = name.rpartition("/")
        shadow = member(f"./{folder}/._{last}" if folder else f"./._{last}", b"\0\x05\x16\x07Mac OS X")
        members += [shadow, member(f"./{name}", data)]
    members += [member("._service.wasm", b"shadow"), member("./.DS_Store", b"shadow"), member("__MACOSX/._okra.json")]
    found = read(packed(*members), tmp_path)
    assert found == read(package(files), tmp_path)
    assert found.migrations == ("001_a.sql", "002_b.sql")


def test_made_on_windows(files: dict[str, bytes], tmp_path: Path) -> None:
    """A byte order mark and CRLF in the texts, no owners, every mode 777."""
    texts = {
        name: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")
        for name, data in files.items()
        if name.endswith((".json", ".gql"))
    }
    members = [member(name, data, mode=0o777) for name, data in {**files, **texts}.items()]
    assert read(packed(*members), tmp_path) == read(package(files), tmp_path)


@pytest.mark.parametrize("prefix", ["service.okra.pkg/", "./dist/"])
def test_one_folder_around_it(files: dict[str, bytes], tmp_path: Path, prefix: str) -> None:
    assert read(package(files, prefix), tmp_path).migrations == ("001_a.sql", "002_b.sql")


def test_strange_files_are_passed_over(files: dict[str, bytes], tmp_path: Path) -> None:
    extra = package({**files, "README.md": b"#", "src/main.c": b"int", "src/migrations/x/y.sql": b"", ".git/HEAD": b""})
    assert read(extra, tmp_path) == read(package(files), tmp_path)


@pytest.mark.parametrize("name", ["service.wasm", "okra.json", "service.description.json", "service.pb.desc"])
def test_each_missing_file_by_name(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageError, match=f"the package has no {name}"):
        read(package({**files, name: None}), tmp_path)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ({}, "the archive is empty"),
        ({"Service.wasm": WASM}, "there is 'Service.wasm'; service.wasm must be called exactly that"),
        ({"dist/pkg/service.wasm": WASM}, "service.wasm"),
        ({"README": b""}, "it is the compiled guest; `insula build` writes it"),
    ],
)
def test_the_hint_of_a_missing_file(tmp_path: Path, names: dict[str, bytes], hint: str) -> None:
    with pytest.raises(PackageError, match=r"the package has no service\.wasm") as refused:
        read(package(names), tmp_path)
    assert hint in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("wasm", "said"),
    [
        (b"", "service.wasm is empty"),
        (b"MZ\x90\0", "not WebAssembly: it starts with 4d 5a 90 00"),
        (b"\0as", "not WebAssembly: it starts with 00 61 73"),
        (b'(module (func (export "x")))', "is WebAssembly text"),
        (b"\0asm\x0d\0\x01\0", "a component, and components are not supported yet"),
        (b"\0asm\x02\0\0\0", "version that is not known: 02 00 00 00"),
        (b"\0asm", "version that is not known"),
    ],
)
def test_what_is_no_module(files: dict[str, bytes], tmp_path: Path, wasm: bytes, said: str) -> None:
    with pytest.raises(PackageError, match=said):
        read(package(changed(files, service_wasm=wasm)), tmp_path)


@pytest.mark.parametrize(
    ("description", "said"),
    [
        (b"{", "service.description.json is not a description"),
        (b"[" * 100_000, "service.description.json is not a description"),
        (b"{}", "describes no service"),
        (b'{"services": []}', "describes no service"),
        (b'{"services": [{"name": "A", "methods": [{"name": "m", "outputType": "Int"}]}]}', "no namespace"),
        (
            b'{"services": [{"name": "A", "namespace": "grpc", "version": "v1", "methods": [{"name": "m"}]}]}',
            "the server's own",
        ),
        (
            b'{"services": [{"name": "A.B", "namespace": "x", "methods": [{"name": "m", "outputType": "Int"}]}]}',
            "is not a name",
        ),
        (
            b'{"services": [{"name": "A", "namespace": "x", "methods": [{"name": "m", "outputType": "Int", '
            b'"directives": [{"name": "d", "args": {"a": ' + b"[" * 200 + b"]" * 200 + b"}}]}]}]}",
            "more than 64 deep",
        ),
        (
            b'{"services": [{"name": "A", "namespace": "x"}], "meta": {"service": "B"}}',
            "the service is given as 'A' and as 'B'",
        ),
    ],
)
def test_bad_descriptions(files: dict[str, bytes], tmp_path: Path, description: bytes, said: str) -> None:
    bare = changed(files, service_okra_gql=None, service_description_json=description)
    with pytest.raises(PackageError, match=said):
        read(package(bare), tmp_path)


@pytest.mark.parametrize(
    ("idl", "said"),
    [
        (b"\n\xff", r"service\.okra\.gql:2: the text is not UTF-8"),
        (IDL.replace("times: Int", "times: Imt").encode(), r"service\.okra\.gql:10:\d+: "),
        (b"service {", r"service\.okra\.gql:1:"),
        (IDL.replace("times: Int", "").encode(), "differ: the field GreetRequest.times is in the second alone"),
    ],
)
def test_the_idl_must_be_one_and_agree(files: dict[str, bytes], tmp_path: Path, idl: bytes, said: str) -> None:
    with pytest.raises(PackageError, match=said):
        read(package(changed(files, service_okra_gql=idl)), tmp_path)


@pytest.mark.parametrize(
    ("descriptor", "said"),
    [
        (b"not a descriptor", "is not a protobuf FileDescriptorSet"),
        (b"\xff" * 40, "is not a protobuf FileDescriptorSet"),
        (b"\x0a\x02" * 100, "FileDescriptorSet|no protobuf file"),
        (b"", "describes no protobuf file"),
    ],
)
def test_bad_descriptor_sets(files: dict[str, bytes], tmp_path: Path, descriptor: bytes, said: str) -> None:
    with pytest.raises(PackageError, match=said):
        read(package(changed(files, service_pb_desc=descriptor)), tmp_path)


@pytest.mark.parametrize(
    "name", ["migrations/add users.sql", "migrations/a/b.sql", "migrations/.sql", "migrations/X.SQL"]
)
def test_a_migration_is_never_left_out_silently(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageError, match="is not the name of a migration"):
        read(package({**files, name: b"select 1"}), tmp_path)


def test_a_migration_is_text(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"migrations/003_c\.sql is not UTF-8 text"):
        read(package({**files, "migrations/003_c.sql": b"\xff"}), tmp_path)


def test_each_file_has_its_size(files: dict[str, bytes], tmp_path: Path) -> None:
    large = os.urandom(SIZES["okra.json"] + 1)
    with pytest.raises(PackageError, match=r"okra\.json in the package is larger than 1 MiB") as refused:
        read(package({"okra.json": large}), tmp_path)
    assert refused.value.http_status == 413


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_files_raise_nothing_else(files: dict[str, bytes], tmp_path: Path, draw: st.DataObject) -> None:
    name = draw.draw(st.sampled_from(sorted(files)))
    data = bytearray(files[name])
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        read(package({**files, name: bytes(data)}), tmp_path)
    except PackageError:
        pass


def test_the_writer_and_the_reader_know_the_same_files(files: dict[str, bytes]) -> None:
    assert {name for name in files if "/" not in name} == set(SIZES)
    assert files_of(package(files)) == files
    assert io.BytesIO(package(files)).read(2) == b"\x1f\x8b"
