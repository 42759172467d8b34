"""A whole server whose operator gives services limits of their own: what is shown is in force, and what a refusal says to
write is what helps."""

from __future__ import annotations

import re
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.packing import hostile
from tests.running import Live, running

TABLE = '[limits.services."test.Hostile"]'
SMALL = "memory_mb = 20\nbody_values = 20\nbody_bytes = 2048\nmailbox = 2"


def flags(toml: str) -> dict[str, Any]:
    """What a configuration file with this text would say."""
    return {f"{section}.{key}": value for section, table in tomllib.loads(toml).items() for key, value in table.items()}


@asynccontextmanager
async def served(folder: Path, toml: str, **limits: Any) -> AsyncIterator[Live]:
    """A server with this configuration and hostile.c deployed, with these limits of its own."""
    async with running(folder, flags(toml)) as live:
        package = hostile(folder / "hostile.okra.pkg", limits=limits)
        answer = await live.deploy(package, override="true")
        assert answer.status_code == 200, answer.text
        yield live


async def shown(live: Live) -> dict[str, Any]:
    answer: dict[str, Any] = (await live.admin.get("/api/v1/packages/test.Hostile.v1")).json()
    return answer


async def test_what_is_shown_and_planned_is_in_force(tmp_path: Path) -> None:
    toml = f"[limits]\nrequest_timeout_ms = 1500\nbody_values = 5000\n{TABLE}\n{SMALL}\n"
    toml += '[limits.services."test.Hostile.v1"]\nmailbox = 3\n[limits.services."test.Hostile.v2"]\nmailbox = 4\n'
    async with served(tmp_path, toml, memory_mb=256, timeout_ms=5000, singleton=True) as live:
        told = await shown(live)
        assert told["limits"] == {
            "memory_mb": 20,
            "timeout_ms": 1500,
            "max_instances": 1,
            "min_instances": 0,
            "mailbox": 3,
            "singleton": True,
            "output_mb": 4,
            "body_bytes": 2048,
            "body_values": 20,
        }
        assert told["limits_from"] == {
            "memory_mb": f"{TABLE} memory_mb; okra.json has 256",
            "timeout_ms": "[limits] request_timeout_ms; okra.json has 5000",
            "mailbox": '[limits.services."test.Hostile.v1"] mailbox; okra.json has 256',
            "body_bytes": f"{TABLE} body_bytes",
            "body_values": f"{TABLE} body_values",
        }
        assert told["mailbox"]["max"] == 3
        plan = (await live.deploy(tmp_path / "hostile.okra.pkg", override="true", plan="true")).json()
        assert f"limit memory_mb is 20 by {TABLE} memory_mb; okra.json has 256" in plan["changes"]
        assert "limit timeout_ms is 1500 by [limits] request_timeout_ms; okra.json has 5000" in plan["changes"]


async def test_one_version_may_be_denied_what_others_have(tmp_path: Path) -> None:
    toml = '[grants]\ndeny = {"test.Hostile.v2" = ["okra.log"]}\n'
    async with served(tmp_path, toml) as live:
        for version, status in (("v1", 200), ("v2", 403)):
            package = hostile(tmp_path / "other.okra.pkg", version=version, host_apis=["okra.log"])
            assert (await live.deploy(package, override="true")).status_code == status


def written(message: str) -> str:
    """The TOML that a hint says to write."""
    found = re.search(r"under (\[[^\]]+\]): (\w+ = \w+)", message)
    assert found, message
    tomllib.loads(f"{found[1]}\n{found[2]}")
    return f"{found[1]}\n{found[2]}\n"


CALLS: dict[str, tuple[str, Any, str, dict[str, str]]] = {
    "memory": ("bomb", {}, "memory_limit", {}),
    "values": ("echo", {"text": "x", **{f"v{n}": n for n in range(30)}}, "body_values", {}),
    "bytes": ("echo", {"text": "x" * 3000}, "body_bytes", {}),
    "deadline": ("loop", {}, "deadline", {}),
}


async def refusal(live: Live, kind: str) -> str:
    """The message of the refusal, or "" where the call was answered."""
    method, body, reason, headers = CALLS[kind]
    answer = await live.call(f"/test.Hostile/{method}", body, **headers)
    if answer.status_code == 200:
        return ""
    assert [detail["debug"]["reason"] for detail in answer.json()["details"]] == [reason], answer.text
    message: str = answer.json()["message"]
    return message


@pytest.mark.parametrize("kind", ["values", "bytes"])
@pytest.mark.parametrize("place", [TABLE, "[limits]"])
async def test_what_a_refusal_says_to_write_helps(tmp_path: Path, kind: str, place: str) -> None:
    """Pasted as it is, perhaps a few times over."""
    toml = f"{place}\nbody_values = 20\nbody_bytes = 2048\n"
    async with served(tmp_path, toml) as live:
        message = await refusal(live, kind)
        line = written(message)
        assert line.startswith(place), message
    key, _, value = line.splitlines()[1].partition(" = ")
    async with served(tmp_path, re.sub(rf"{key} = \d+", f"{key} = {value}", toml)) as live:
        assert await refusal(live, kind) == ""


@pytest.mark.parametrize(
    ("toml", "place"),
    [("", '"limits": {"memory_mb": 40} in okra.json, or in the server'), (f"{TABLE}\nmemory_mb = 20\n", f"{TABLE}: ")],
)
async def test_want_of_memory_names_what_decides(tmp_path: Path, toml: str, place: str) -> None:
    async with served(tmp_path, toml, memory_mb=256 if toml else 20) as live:
        message = await refusal(live, "memory")
        assert place in message
        assert written(message) == f"{TABLE}\nmemory_mb = 40\n"


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("", '"limits": {"timeout_ms": 200} in okra.json'),
        (f"{TABLE}\ntimeout_ms = 90\n", f"under {TABLE}: timeout_ms = 180"),
        ("[limits]\nrequest_timeout_ms = 50\n", "under [limits]: request_timeout_ms = 100"),
        ("[limits]\nrequest_timeout_ms = 100\n", "[limits] request_timeout_ms (100), and then"),
    ],
)
async def test_a_deadline_names_whose_it_was(tmp_path: Path, toml: str, told: str) -> None:
    async with served(tmp_path, toml, timeout_ms=100) as live:
        assert told in await refusal(live, "deadline")
        late = await live.call("/test.Hostile/loop", {}, **{"connect-timeout-ms": "20"})
        assert (late.status_code, late.json()["details"][0]["debug"]["reason"]) == (504, "deadline")
        assert "the client allowed 20 ms by Connect-Timeout-Ms" in late.json()["message"]
        again = await live.call("/test.Hostile/loop", {}, **{"connect-timeout-ms": "20000"})
        assert told in again.json()["message"], "the client would have waited"


@pytest.mark.parametrize(
    ("toml", "limits", "told"),
    [
        ("[packages]\nmax_memory_mb = 200\n", {"memory_mb": 201}, "okra.json limits.memory_mb"),
        (f"[packages]\nmax_memory_mb = 200\n{TABLE}\nmemory_mb = 201\n", {"memory_mb": 64}, f"{TABLE} memory_mb"),
        (f"{TABLE}\nmin_instances = 9\n", {"max_instances": 4}, f"{TABLE}"),
        (f"{TABLE}\nmemory_mb = 1\n", {}, f"{TABLE} memory_mb"),
    ],
)
async def test_a_deploy_that_the_operators_limits_refuse_names_them(
    tmp_path: Path, toml: str, limits: dict[str, Any], told: str
) -> None:
    package = hostile(tmp_path / "hostile.okra.pkg", limits=limits)
    async with running(tmp_path, flags(toml)) as live:
        answer = await live.deploy(package)
        assert answer.status_code in (400, 403), answer.text
        assert told in answer.json()["message"]
        line = written(answer.json()["hint"])
    section, setting = line.splitlines()
    kept = "\n".join(row for row in toml.splitlines() if row.partition(" =")[0] != setting.partition(" =")[0])
    helped = kept.replace(section, f"{section}\n{setting}") if section in kept else f"{kept}\n{line}"
    async with running(tmp_path, flags(helped)) as live:
        answer = await live.deploy(package)
        assert answer.status_code == 200, answer.text


async def test_fewer_instances_than_a_package_keeps_are_what_there_is(tmp_path: Path) -> None:
    async with served(tmp_path, f"{TABLE}\nmax_instances = 2\n", min_instances=4) as live:
        told = await shown(live)
        assert (told["limits"]["min_instances"], told["instances"]["max"]) == (2, 2)
        assert told["limits_from"]["min_instances"] == f"{TABLE} max_instances; okra.json has 4"
