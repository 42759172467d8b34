from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from insula.build.new import create
from insula.build.project import build, generate
from insula.errors import InsulaError
from insula.schema.idl import parse_idl
from insula.schema.model import read_description
from tests.build.guests import members
from tests.toolchains import needs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return create("greeter", "c", tmp_path / "project")


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "okra.json").read_text())
    (folder / "okra.json").write_text(json.dumps({**config, **changes}))


def test_what_a_package_holds(project: Path) -> None:
    needs("c")
    (project / "migrations").mkdir()
    (project / "migrations" / "001_first.sql").write_text("SELECT 1;")
    (project / "migrations" / "notes.txt").write_text("not SQL")
    lines: list[str] = []
    result = build(project, progress=lines.append)
    held = members(result.path)
    assert sorted(held) == [
        "migrations/001_first.sql", "okra.json", "service.description.json", "service.okra.gql", "service.pb.desc",
        "service.wasm",
    ]  # fmt: skip
    assert held["service.wasm"].startswith(b"\0asm")
    assert read_description(held["service.description.json"]) == parse_idl(held["service.okra.gql"].decode())
    assert result.service_id == "demo.Greeter.v1"
    assert (result.size, result.wasm_size) == (result.path.stat().st_size, len(held["service.wasm"]))
    assert [line.split()[0] for line in lines] == ["read", "compiling", "packing"]


def test_a_package_that_asks_for_no_key_of_the_environment_is_told(project: Path) -> None:
    (project / "service.c").unlink()  # so that no compiler is needed: the build says it before it fails
    for grants, told in (({}, True), ({"okra.env": {"keys": []}}, True), ({"okra.env": {"keys": ["REGION"]}}, False)):
        configure(project, host_apis=["okra.env"], grants=grants)
        lines: list[str] = []
        with pytest.raises(InsulaError):
            build(project, progress=lines.append)
        assert any('"grants": {"okra.env"' in line for line in lines) is told


@pytest.mark.parametrize("lang", ["c", "go"])
def test_the_same_source_gives_the_same_bytes_in_any_folder(lang: Literal["c", "go"], tmp_path: Path) -> None:
    needs(lang)
    first = build(create("greeter", lang, tmp_path / "one"))
    second = build(create("greeter", lang, tmp_path / "two" / "and a half"))
    assert first.digest == second.digest
    wasm = members(first.path)["service.wasm"]
    assert str(tmp_path).encode() not in wasm
    assert b"service.c" not in wasm
    assert build(first.path.parent.parent).digest == first.digest


def test_stubs_that_are_no_longer_made_are_gone(project: Path) -> None:
    schema = parse_idl((project / "service.okra.gql").read_text())
    generate(project, "c", schema)
    (project / "gen" / "old.c").write_text("int old;")
    generate(project, "c", schema)
    assert not (project / "gen" / "old.c").exists()


def test_a_folder_that_insula_did_not_make_is_left_alone(project: Path) -> None:
    (project / "gen").mkdir()
    (project / "gen" / "mine.c").write_text("precious")
    with pytest.raises(InsulaError, match="did not make"):
        build(project)
    assert (project / "gen" / "mine.c").read_text() == "precious"


def test_a_link_is_not_followed(project: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".made-by-insula-build").touch()
    (tmp_path / "elsewhere" / "mine").touch()
    (project / "gen").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InsulaError, match="did not make"):
        build(project)
    assert (tmp_path / "elsewhere" / "mine").exists()


def no_config(folder: Path) -> None:
    (folder / "okra.json").unlink()


def no_schema(folder: Path) -> None:
    (folder / "service.okra.gql").unlink()


def wrong_schema(folder: Path) -> None:
    (folder / "service.okra.gql").write_text(
        '@okra(namespace: "demo", version: "v1")\nservice Greeter {\n  greet(input: Nope): Boolean\n}\n'
    )


def schema_that_is_no_text(folder: Path) -> None:
    (folder / "service.okra.gql").write_bytes(b"# one\n\xff\n")


PROBLEMS: list[tuple[Callable[[Path], None] | dict[str, Any], str]] = [
    (no_config, "there is no okra.json in this folder"),
    (no_schema, "service.okra.gql.*no such file"),
    (wrong_schema, r"service\.okra\.gql:3:\d+: .*Nope"),
    (schema_that_is_no_text, r"service\.okra\.gql:2: this is not UTF-8"),
    ({"language": "rust"}, "'rust'"),
    ({"language": ""}, "no language"),
    ({"name": "Other"}, "'Other'.*'Greeter'"),
    ({"name": "../../Greeter"}, "not the name of a service"),
    ({"source": "../elsewhere.c"}, "leads out of the project"),
    ({"source": "/etc/passwd"}, "leads out of the project"),
    ({"source": "nope.c"}, "no such file or folder"),
    ({"schema": "../service.okra.gql"}, "leads out of the project"),
    ({"version": "1/0"}, "not a version"),
]


@pytest.mark.parametrize(("change", "message"), PROBLEMS, ids=[message for _, message in PROBLEMS])
def test_what_is_wrong_is_said(project: Path, change: Callable[[Path], None] | dict[str, Any], message: str) -> None:
    if callable(change):
        change(project)
    else:
        configure(project, **change)
    with pytest.raises(InsulaError, match=message):
        build(project)
    assert not (project / "dist").exists()


def test_a_required_circle_is_refused(project: Path) -> None:
    (project / "service.okra.gql").write_text(
        '@okra(namespace: "demo", version: "v1")\n'
        "service Greeter { greet(input: A): Boolean }\ntype A { b: B! }\ntype B { a: A! }\n"
    )
    with pytest.raises(InsulaError):
        build(project)
