from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from connectrpc.client import ConnectClient
from connectrpc.codec import proto_binary_codec, proto_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from insula.build.new import create
from insula.build.project import build
from insula.errors import InsulaError
from tests.build.guests import Guest, build_module, members
from tests.running import running
from tests.toolchains import needs


@pytest.mark.parametrize("lang", ["c", "go"])
def test_a_new_project_builds_and_answers(lang: Literal["c", "go"], tmp_path: Path) -> None:
    needs(lang)
    folder = create("my-greeter", lang, tmp_path / "project", "acme.tools")
    config = json.loads((folder / "okra.json").read_text())
    assert config["name"] == "MyGreeter"
    assert "acme.tools.MyGreeter/greet" in (folder / "README.md").read_text()
    guest = Guest(build_module(folder))
    assert guest.call(0, "greet", '{"name": "Zoë"}'.encode()) == (False, '{"message":"Hello, Zoë!"}'.encode())
    assert guest.call(0, "greet", b"{}") == (True, b'{"error":"name is empty","code":"invalid_argument"}')
    assert (folder / "dist" / "MyGreeter-0.1.0.okra.pkg").is_file()
    assert set((folder / ".gitignore").read_text().split()) == {"gen/", "dist/"}


@pytest.mark.parametrize("lang", ["c", "go"])
async def test_a_new_project_is_deployed_and_called_by_a_connect_client(
    lang: Literal["c", "go"], tmp_path: Path
) -> None:
    def made() -> Path:
        needs(lang)
        return build(create("greeter", lang, tmp_path / "project")).path

    package = await asyncio.to_thread(made)
    registry = FileDescriptorSet.from_binary(members(package)["service.pb.desc"]).to_registry()
    asks, answers = registry.message("demo.GreetRequest"), registry.message("demo.GreetResponse")
    assert asks is not None
    assert answers is not None
    method: MethodInfo[Any, Any] = MethodInfo(
        name="greet",
        service_name="demo.Greeter",
        input=asks.type,
        output=answers.type,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )
    (tmp_path / "server").mkdir()
    async with running(tmp_path / "server") as live:
        assert (await live.deploy(package)).status_code == 200
        for codec in (proto_json_codec(registry), proto_binary_codec()):
            async with ConnectClient(live.url, codec=codec) as client:
                answer = await client.execute_unary(request=asks.type(name="Zoë"), method=method)
                assert answer == answers.type(message="Hello, Zoë!")
                with pytest.raises(ConnectError, match="name is empty"):
                    await client.execute_unary(request=asks.type(), method=method)


@pytest.mark.parametrize("lang", ["c", "go"])
def test_nothing_of_the_template_is_left_unfilled(lang: Literal["c", "go"], tmp_path: Path) -> None:
    folder = create("x", lang, tmp_path / "x")
    for file in folder.iterdir():
        assert "{{" not in file.read_text()
        assert file.suffix != ".tmpl"


def test_it_goes_into_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert create("greeter", "c") == Path("greeter")
    assert (tmp_path / "greeter" / "okra.json").is_file()


@pytest.mark.parametrize("name", ["", "-x", "x-", "a--b", "1st", "a/b", "..", "a b", "é", "x\n", "a" * 65])
def test_a_bad_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InsulaError, match="cannot be the name"):
        create(name, "c", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("namespace", ["", "9", "a b", 'x"', "grpc", "a..b"])
def test_a_bad_namespace_is_refused(namespace: str, tmp_path: Path) -> None:
    with pytest.raises(InsulaError):
        create("x", "c", tmp_path / "x", namespace)
    assert not (tmp_path / "x").exists()


def test_a_service_that_is_called_like_one_of_its_types_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InsulaError, match="GreetRequest"):
        create("greet-request", "c", tmp_path / "x")


def test_another_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InsulaError, match="cobol"):
        create("x", "cobol", tmp_path / "x")  # type: ignore[arg-type]


def test_a_folder_that_holds_anything_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(InsulaError, match="not empty"):
        create("x", "c", tmp_path)
    with pytest.raises(InsulaError, match="not empty"):
        create("x", "c", tmp_path / "mine")
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert create("x", "c", tmp_path) == tmp_path
