"""`insula inspect`: a package of this machine, without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from insula.examples import find
from tests.cli.conftest import Ended

Run = Callable[..., Ended]


def test_a_package_is_described_in_plain_words(insula: Run) -> None:
    file = str(example())
    assert "examples.Greeter.v1 is version" in insula("inspect", file).out
    found = insula("inspect", file, "--json").json()
    assert found["service_id"] == "examples.Greeter.v1"
    assert "greet" in found["methods"]


def test_what_is_no_package_is_refused(insula: Run, tmp_path: Path) -> None:
    (tmp_path / "a.okra.pkg").write_bytes(b"hello")
    assert insula("inspect", "a.okra.pkg").code == 1
    assert insula("inspect", "none.okra.pkg").code == 1
    done = insula("inspect", "greeter")
    assert done.code == 2
    assert "there is no file greeter, and it is not the id of a service" in done.err


def example() -> Path:
    file = find("greeter")
    assert file is not None
    return file
