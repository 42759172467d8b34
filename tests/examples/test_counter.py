from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.running import Live, running


async def call(live: Live, method: str, **body: Any) -> Any:
    answer = await live.call(f"/examples.Counter/{method}", body)
    return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["code"])


async def test_it_counts_and_remembers(tmp_path: Path, counter: Path) -> None:
    async with running(tmp_path) as live:
        assert (await live.deploy(counter)).status_code == 200
        assert await call(live, "getCount", name="visits") == {"value": "0", "version": "0"}
        assert await call(live, "increment", name="visits") == {"value": "1", "version": "1"}
        assert await call(live, "increment", name="visits", by="41") == {"value": "42", "version": "2"}
        assert await call(live, "increment", name="downs", by=-9007199254740993) == {
            "value": "-9007199254740993",
            "version": "1",
        }
        assert await call(live, "listCounters", prefix="") == {"response": ["downs", "visits"]}
        assert await call(live, "increment", name="no such/name") == (400, "invalid_argument")

        assert await call(live, "reset", name="visits", ifVersion=1) == (409, "aborted")
        assert await call(live, "reset", name="visits", ifVersion=2) == {"value": "0", "version": "3"}

        await asyncio.gather(*(call(live, "increment", name="many") for _ in range(40)))
        assert (await call(live, "getCount", name="many"))["value"] == "40"

    async with running(tmp_path) as live:
        assert (await call(live, "getCount", name="many"))["value"] == "40"
        assert await call(live, "increment", name="visits") == {"value": "1", "version": "4"}
