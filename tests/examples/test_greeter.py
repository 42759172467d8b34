from __future__ import annotations

from pathlib import Path

import pytest

from insula import examples
from insula.build.tools import find_zig
from tests.build.guests import members
from tests.examples.conftest import EXAMPLES
from tests.running import running

#: The compiler that the shipped package was built with; another may write other bytes.
BUILT_WITH = "0.17.1"


def shipped() -> Path:
    path = examples.find("greeter")
    assert path is not None
    return path


def test_what_is_shipped_is_what_its_source_builds(greeter: Path) -> None:
    built, held = members(greeter), members(shipped())
    if (version := find_zig().version) != BUILT_WITH:
        built.pop("service.wasm"), held.pop("service.wasm")
        assert built == held
        pytest.skip(f"the module was compiled with Zig {BUILT_WITH}, and here is {version}")
    assert built.keys() == held.keys()
    assert [name for name in built if built[name] != held[name]] == [], (
        "build examples/greeter and copy its package to src/insula/examples/greeter.okra.pkg"
    )


def test_it_is_small() -> None:
    assert shipped().stat().st_size < 20_000


async def test_it_greets(tmp_path: Path) -> None:
    async with running(tmp_path, deploy=["greeter"]) as live:
        greet = "/examples.Greeter/greet"
        answer = await live.call(greet, {"name": "Ada"})
        assert answer.json() == {"message": "Hello, Ada!", "language": "ENGLISH"}
        answer = await live.call(greet, {"name": "Ada", "language": "JAPANESE"})
        assert answer.json() == {"message": "こんにちは、Adaさん。", "language": "JAPANESE"}

        answer = await live.call(greet, {})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
        assert "name is empty" in answer.json()["message"]
        answer = await live.call(greet, {"name": "Ada", "language": "KLINGON"})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")

        answer = await live.call("/examples.Greeter/greetAll", {"names": ["A", "B"], "language": "GERMAN"})
        assert [one["message"] for one in answer.json()["response"]] == ["Guten Tag, A!", "Guten Tag, B!"]
        answer = await live.public.get(
            "/examples.Greeter/listLanguages", params={"connect": "v1", "encoding": "json", "message": "{}"}
        )
        assert answer.json() == {"response": ["ENGLISH", "FRENCH", "GERMAN", "JAPANESE"]}


def test_the_readme_is_short() -> None:
    for name in ("greeter", "counter"):
        assert len((EXAMPLES / name / "README.md").read_text().splitlines()) <= 10
