"""Deploys that meet, on a real server beside a busy database: what is listed, what runs and what is written down agree."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path

from insula.services.service import Service
from insula.services.states import State
from tests.guests import build_c
from tests.packing import pack
from tests.running import Live, running
from tests.services.test_deadlines import IDL
from tests.services.test_generation import RELAY

ROUNDS = 20


def packages(folder: Path) -> list[Path]:
    """Two whose names clash: shop.Orders.v1, and Orders.v1 of the namespace shop with its version v1 in the name."""
    wasm = build_c(RELAY).read_bytes()
    made = []
    for namespace, name in (("shop", "Orders"), ("shop.Orders", "v1")):
        idl = IDL.replace('namespace: "shop"', f'namespace: "{namespace}"').replace("NAME", name)
        made.append(pack(folder / f"{namespace}.{name}.okra.pkg", idl, wasm))
    return made


async def load(live: Live) -> None:
    """Keeps the database busy."""
    request = {"api": "okra.state", "method": "set", "parameters": {"key": "k", "value": "v" * 1000}}
    while True:
        await live.call("/shop.Busy/relay", request)


async def test_of_two_that_clash_one_is_there_and_nothing_of_the_other(tmp_path: Path) -> None:
    files = await asyncio.to_thread(packages, tmp_path)
    wasm = (await asyncio.to_thread(build_c, RELAY)).read_bytes()
    busy = pack(tmp_path / "busy.okra.pkg", IDL.replace("NAME", "Busy"), wasm, host_apis=["okra.state"])
    ids = ["shop.Orders.v1", "shop.Orders.v1.v1"]
    chance = random.Random(5)

    async def later(live: Live, file: Path) -> int:
        await asyncio.sleep(chance.choice((0, 0, 0.002, 0.01)))
        return (await live.deploy(file)).status_code

    kept = ""
    async with running(tmp_path, {"grants.default": ["okra.state"]}) as live:
        assert (await live.deploy(busy)).status_code == 200
        loads = [asyncio.create_task(load(live)) for _ in range(8)]
        for round_ in range(ROUNDS):
            statuses = await asyncio.gather(*(later(live, file) for file in files))
            assert sorted(statuses) == [200, 409]
            listed = (await live.admin.get("/api/v1/packages")).json()["services"]
            (there,) = [one for one in listed if one["id"] in ids]
            assert (there["id"], there["state"]) == (ids[statuses.index(200)], "ready")
            kept = there["id"]
            alive = [
                one.name for one in gc.get_objects() if isinstance(one, Service) and one.state is not State.STOPPED
            ]
            assert sorted(alive) == sorted(["shop.Busy.v1", kept]), "nothing is left of the other"
            if round_ < ROUNDS - 1:
                assert (await live.admin.delete(f"/api/v1/packages/{kept}")).status_code == 204
        for task in loads:
            task.cancel()
    async with running(tmp_path) as live:
        listed = (await live.admin.get("/api/v1/packages")).json()["services"]
        assert {one["id"]: one["state"] for one in listed} == {"shop.Busy.v1": "ready", kept: "ready"}
