"""A start puts in place what was deployed; the changes themselves are tested through a server (tests/test_server.py)."""

from __future__ import annotations

from typing import Any, cast

from insula.deployments.manager import DeploymentManager
from insula.services.generation import Generation
from insula.services.registry import Registry
from insula.services.state import State
from insula.storage.deployments import DeploymentRow
from tests.services.test_registry import generation


class Kept:
    """A repository that knows these deployments, a depot that has their packages, and a stage that starts them."""

    def __init__(self, *ids: str) -> None:
        self.rows = [
            DeploymentRow(name, f"digest of {name}", "1.0.0", "file:///x", "2026-01-01T00:00:00Z") for name in ids
        ]
        self.staged: dict[str, Generation] = {}
        self.registry = Registry()
        self.tables: list[int] = []
        self.registry.on_change(lambda table: self.tables.append(len(table.generations)))
        self.manager = DeploymentManager(
            sources=cast("Any", None),
            depot=cast("Any", self),
            repository=cast("Any", self),
            registry=self.registry,
            stage=self.stage,
            drain_timeout=1.0,
        )

    async def all(self) -> list[DeploymentRow]:
        return self.rows

    async def get(self, digest: str) -> Any:
        return digest.removeprefix("digest of ")

    async def sweep(self, *_: object, **__: object) -> None: ...

    async def stage(self, package: Any, _: object) -> Generation:
        made = self.staged[package] = generation(package)
        await made.service.start()
        return made


async def test_a_start_puts_all_in_place_at_once_in_their_order() -> None:
    kept = Kept("shop.Orders.v1", "shop.Stock.v1", "shop.Orders.v2")
    await kept.manager.start()
    assert kept.tables == [0, 3]
    assert [str(each.id) for each in kept.registry.generations] == ["shop.Orders.v1", "shop.Stock.v1", "shop.Orders.v2"]
    await kept.manager.stop()


async def test_two_that_do_not_go_together_stop_no_other() -> None:
    kept = Kept("shop.Orders.v1", "shop.Orders.v1.v1", "shop.Stock.v1")
    await kept.manager.start()
    assert [str(each.id) for each in kept.registry.generations] == ["shop.Orders.v1", "shop.Stock.v1"]
    assert kept.staged["shop.Orders.v1.v1"].service.state is State.STOPPED
    states = {str(one.id): one.state for one in kept.manager.list()}
    assert states["shop.Orders.v1.v1"] == "stopped"
    names = ("shop.Orders.v1.v1", "shop.Orders.v1", "shop.Orders", "shop.Stock")
    # the second name is also that of a service which runs: its routes answer before this is asked
    assert [kept.manager.stopped(name) for name in names] == ["shop.Orders.v1.v1", "shop.Orders.v1.v1", None, None]
    await kept.manager.stop()
