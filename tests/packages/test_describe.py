from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from insula.errors import CallerError, PackageError
from insula.packages.deployable import ServiceLimits
from insula.packages.describe import describe, open_package
from insula.packages.package import PackageConfig
from tests.packages.archives import CONFIG, honest, package


def test_says_everything(tmp_path: Path) -> None:
    config = PackageConfig(
        name="my-project",
        version="1.2.3",
        language="c",
        host_apis=("okra.state", "okra.fetch", "okra.env", "acme.robots"),
        grants={"okra.fetch": {"hosts": ["a.example", "b.example"]}},
        limits=ServiceLimits(memory_mb=16, timeout_ms=1500, max_instances=1),
    )
    file = tmp_path / "x.okra.pkg"
    file.write_bytes(package(honest(tmp_path, config=config, migrations={"001.sql": b""})))
    with open_package(file) as found:
        folder = found.folder
        lines = describe(found)
    assert not folder.exists()
    assert lines == [
        "demo.Greeter.v1 (okra.json calls it my-project) is version 1.2.3, written in C.",
        f"Its digest is sha256:{found.digest}; its module has 8 bytes.",
        "It says of itself: Greets people.",
        "It asks to keep durable state of its own (okra.state).",
        "It asks to send HTTP requests to the outside (okra.fetch): the hosts a.example, b.example.",
        "It asks to read settings that the operator gives it (okra.env), and names no key.",
        "It asks to use what the operator has added to this server (acme.robots).",
        "It runs as 0 to 1 instance, each with at most 16 MiB of memory.",
        "A call may take 1.5 s and answer 4 MiB; 256 calls may wait.",
        "It brings 1 migration for its SQL database.",
        "It has 4 methods:",
        "  greet(GreetRequest) -> Greeting",
        "  listMoods() -> [Mood]: only reads",
        "  shutdown() -> Boolean: needs one of the roles admin",
        "  leave() -> Boolean: needs an identity",
        "Anyone who reaches the server may call greet, listMoods.",
    ]


def test_a_package_that_asks_for_nothing_and_steers_no_terminal(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, language="\x1b[2Jc", host_apis=(), limits=ServiceLimits(singleton=True))
    file = tmp_path / "x.okra.pkg"
    file.write_bytes(package(honest(tmp_path, config=config)))
    with open_package(file) as found:
        lines = describe(found)
    assert lines[0] == "demo.Greeter.v1 is version 1.2.3, written in \N{REPLACEMENT CHARACTER}[2Jc."
    assert "It asks for nothing of the host: no state, no network, no other service." in lines
    assert "It runs as one instance, never two, each with at most 64 MiB of memory." in lines


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="there is no file"), open_package(tmp_path / "nothing"):
        pass
    with pytest.raises(CallerError, match="not a plain file"), open_package(tmp_path):
        pass
    (tmp_path / "x").write_bytes(b"no package")
    with pytest.raises(PackageError, match="not a gzip file"), open_package(tmp_path / "x"):
        pass
