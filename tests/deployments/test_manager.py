"""Starts, and changes that meet, with everything but the manager in memory; whole deploys are tested through a server
(tests/test_server.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from insula.calls import ServiceId
from insula.deployments.attempts import Attempts
from insula.deployments.manager import DeploymentManager
from insula.deployments.reconciler import Change
from insula.deployments.stopwatch import Stopwatch
from insula.errors import CallerError, Code, InsulaError, UnavailableError
from insula.packages.deployable import Deployable
from insula.services.generation import Generation
from insula.services.limits import in_force
from insula.services.registry import Registry
from insula.services.states import State
from insula.storage.deployments import DeploymentRow
from tests.services.test_registry import generation


class Kept:
    """A repository that knows these deployments, a depot that has their packages, and a stage that starts them. A write,
    or the staging of a service, waits where the test says so."""

    def __init__(self, folder: Path, *ids: str) -> None:
        self.rows = [
            DeploymentRow(name, f"digest-of-{name}", "1.0.0", "file:///x", "2026-01-01T00:00:00Z") for name in ids
        ]
        self.staged: dict[str, Generation] = {}
        self.order: list[str] = []
        self.at_once = 0
        self._changed = asyncio.Event()
        self.registry = Registry()
        self.tables: list[int] = []
        self.registry.follow(lambda table: lambda: self.tables.append(len(table.generations)))
        with ThreadPoolExecutor(1) as threads:  # it blocks
            self.attempts = threads.submit(Attempts.open, folder).result()
        self.hold: dict[str, asyncio.Event] = {}
        self.writing = asyncio.Event()
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.manager = DeploymentManager(
            sources=cast("Any", self),
            depot=cast("Any", self),
            repository=cast("Any", self),
            registry=self.registry,
            attempts=self.attempts,
            stage=self.stage,
            drain_timeout=1.0,
        )

    async def start(self) -> None:
        await self.manager.load()
        await self.manager.start()

    async def stop(self) -> None:
        await self.manager.stop()
        self.attempts.close()
        assert [name for name, each in self.staged.items() if each.service.state is not State.STOPPED] == []

    async def all(self) -> list[DeploymentRow]:
        return self.rows

    async def previous(self, _: str) -> list[Any]:
        return []

    async def digests(self) -> set[str]:
        return {row.digest for row in self.rows}

    async def put(self, service_id: str, digest: str, **more: Any) -> DeploymentRow:
        self.writing.set()
        await self.may_write.wait()
        row = DeploymentRow(service_id, digest, more["version"], more["source"], more["deployed_at"])
        self.rows = [each for each in self.rows if each.service_id != service_id] + [row]
        return row

    async def remove(self, service_id: str) -> None:
        self.rows = [each for each in self.rows if each.service_id != service_id]

    async def fetch(self, source: str) -> Any:
        return package(source)

    async def get(self, digest: str) -> Any:
        return package(digest.removeprefix("digest-of-"))

    async def sweep(self, *_: object, **__: object) -> None: ...

    async def stage(self, package: Any, _: object) -> Generation:
        name = str(package.service_id)
        self.order.append(name)
        self.at_once += 1
        self._changed.set()
        try:
            if name in self.hold:
                await self.hold[name].wait()
            if "Broken" in name:
                raise UnavailableError("it is broken")
            made = generation(name)
            made.deployable = package
            made.limits = in_force(package, {}, body_bytes=1024, body_values=16, request_timeout_ms=60_000)
            await made.service.start()
        finally:
            self.at_once -= 1
            self._changed.set()
        self.staged[f"{name} {len(self.order)}"] = made
        return made

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what is being staged."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def states(self) -> dict[str, str]:
        return {one.id: one.state for one in self.manager.list()}


def package(name: str) -> Deployable:
    service_id = ServiceId.parse(name)
    return Deployable("test", f"digest-of-{name}", service_id, "1.0.0", Path("x.wasm"), "w", "okra.json")


@pytest.fixture
def keep(tmp_path: Path) -> Callable[..., Kept]:
    return lambda *ids: Kept(tmp_path, *ids)


Keep = Callable[..., Kept]


async def test_a_start_puts_all_in_place_at_once_in_their_order(keep: Keep) -> None:
    kept = keep("shop.Orders.v1", "shop.Stock.v1", "shop.Orders.v2")
    await kept.start()
    assert kept.tables == [0, 3]
    assert [str(each.id) for each in kept.registry.generations] == ["shop.Orders.v1", "shop.Stock.v1", "shop.Orders.v2"]
    await kept.stop()


async def test_two_that_do_not_go_together_stop_no_other(keep: Keep) -> None:
    kept = keep("shop.Orders.v1", "shop.Orders.v1.v1", "shop.Stock.v1")
    await kept.start()
    assert [str(each.id) for each in kept.registry.generations] == ["shop.Orders.v1", "shop.Stock.v1"]
    assert kept.states()["shop.Orders.v1.v1"] == "stopped"
    names = ("shop.Orders.v1.v1", "shop.Orders.v1", "shop.Orders", "shop.Stock")
    # the second name is also that of a service which runs: its routes answer before this is asked
    assert [kept.manager.stopped(name) for name in names] == ["shop.Orders.v1.v1", "shop.Orders.v1.v1", None, None]
    await kept.stop()


async def test_a_stopped_service_is_not_taken_for_one_that_has_its_id_as_a_name(keep: Keep) -> None:
    kept = keep("shop.Broken.v1", "shop.Broken.v1.v1")
    kept.manager.reconciler._stage = _but(kept, "shop.Broken.v1")
    await kept.start()
    assert kept.states() == {"shop.Broken.v1": "stopped", "shop.Broken.v1.v1": "ready"}
    await kept.manager.undeploy("shop.Broken.v1")
    assert kept.states() == {"shop.Broken.v1.v1": "ready"}
    await kept.stop()


def _but(kept: Kept, broken: str) -> Any:
    async def stage(package: Any, _: object) -> Generation:
        if str(package.service_id) == broken:
            raise UnavailableError("it is broken")
        made = kept.staged[str(package.service_id)] = generation(str(package.service_id))
        await made.service.start()
        return made

    return stage


class TestClashes:
    @pytest.mark.parametrize("pair", [("a.b.C", "a.b.C.v1"), ("a.b.C.v1", "a.b.C")])
    async def test_of_two_that_clash_one_is_refused_and_not_written_down(
        self, keep: Keep, pair: tuple[str, str]
    ) -> None:
        """The first waits for the database when the second comes."""
        kept = keep()
        await kept.start()
        kept.may_write.clear()
        first = asyncio.create_task(kept.manager.deploy(pair[0]))
        await kept.writing.wait()
        with pytest.raises(CallerError, match=r"would both answer at /a\.b\.C/") as caught:
            await asyncio.wait_for(kept.manager.deploy(pair[1]), 30)
        assert (caught.value.code, caught.value.http_status) == (Code.ABORTED, 409)
        kept.may_write.set()
        await first
        with pytest.raises(CallerError) as caught:
            await kept.manager.deploy(pair[1])
        assert caught.value.code is Code.ALREADY_EXISTS
        assert [row.service_id for row in kept.rows] == [pair[0]] == list(kept.states())
        await kept.stop()

    async def test_the_names_of_one_that_does_not_run_are_taken_too(self, keep: Keep) -> None:
        kept = keep("shop.Broken.v1")
        await kept.start()
        assert kept.states() == {"shop.Broken.v1": "stopped"}
        with pytest.raises(CallerError, match="would both answer"):
            await kept.manager.deploy("shop.Broken.v1.v1")
        await kept.stop()

    async def test_a_claim_ends_with_its_change(self, keep: Keep) -> None:
        kept = keep()
        await kept.start()
        with pytest.raises(UnavailableError, match="broken"):
            await kept.manager.deploy("a.Broken.v1")
        await kept.manager.deploy("a.b.C", plan=True)
        await kept.manager.deploy("a.b.C.v1")
        await kept.stop()


class TestCommit:
    async def test_a_deploy_whose_sender_leaves_during_the_write_is_live(self, keep: Keep) -> None:
        kept = keep()
        await kept.start()
        kept.may_write.clear()
        deploy = asyncio.create_task(kept.manager.deploy("shop.Orders.v1"))
        await kept.writing.wait()
        deploy.cancel()
        await asyncio.sleep(0)
        kept.may_write.set()
        with pytest.raises(asyncio.CancelledError):
            await deploy
        assert kept.states() == {"shop.Orders.v1": "ready"}
        assert [row.service_id for row in kept.rows] == ["shop.Orders.v1"]
        await kept.stop()

    async def test_one_that_is_cancelled_before_leaves_nothing(self, keep: Keep) -> None:
        kept = keep()
        await kept.start()
        kept.hold["shop.Orders.v1"] = asyncio.Event()
        deploy = asyncio.create_task(kept.manager.deploy("shop.Orders.v1"))
        await kept.until(lambda: bool(kept.order))
        deploy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deploy
        assert (kept.rows, kept.states()) == ([], {})
        kept.hold.clear()
        await kept.manager.deploy("shop.Orders.v1")
        await kept.stop()

    async def test_a_write_that_fails_closes_what_was_staged(self, keep: Keep) -> None:
        kept = keep()
        await kept.start()

        async def fails(*_: object, **__: object) -> Any:
            raise UnavailableError("the database is gone")

        kept.put = fails  # type: ignore[method-assign]
        with pytest.raises(UnavailableError):
            await kept.manager.deploy("shop.Orders.v1")
        assert kept.states() == {}
        await kept.stop()

    async def test_what_cannot_be_flipped_is_not_written_down(self, keep: Keep) -> None:
        kept = keep()
        await kept.start()

        def refuse(table: Any) -> Callable[[], None]:
            if table.generations:
                raise InsulaError("no route for it")
            return lambda: None

        kept.registry.follow(refuse)
        with pytest.raises(InsulaError, match="no route"):
            await kept.manager.deploy("shop.Orders.v1")
        assert (kept.rows, kept.states(), kept.tables) == ([], {}, [0, 0])
        assert [each.service.state for each in kept.staged.values()] == [State.STOPPED]
        await kept.stop()

    async def test_one_change_at_a_time_is_between_its_check_and_its_flip(self, keep: Keep) -> None:
        """Two that a follower refuses to have together: the second is refused, and not written down."""
        kept = keep()
        await kept.start()

        def refuse(table: Any) -> Callable[[], None]:
            if len(table.generations) > 1:
                raise InsulaError("no room for both")
            return lambda: None

        kept.registry.follow(refuse)
        kept.may_write.clear()
        first = asyncio.create_task(kept.manager.deploy("shop.Orders.v1"))
        await kept.writing.wait()
        second = asyncio.create_task(kept.manager.deploy("shop.Stock.v1"))
        await kept.until(lambda: len(kept.staged) == 2)
        kept.may_write.set()
        await first
        with pytest.raises(InsulaError, match="no room"):
            await second
        assert [row.service_id for row in kept.rows] == ["shop.Orders.v1"] == list(kept.states())
        await kept.stop()

    async def test_a_start_that_is_cancelled_while_another_change_is_written_leaves_nothing(self, keep: Keep) -> None:
        kept = keep("shop.Broken.v1", "shop.Orders.v1")
        kept.hold["shop.Orders.v1"] = asyncio.Event()
        await kept.manager.load()
        starting = asyncio.create_task(kept.manager.start())
        await kept.until(lambda: len(kept.order) == 2)
        async with kept.manager.reconciler._flips:  # as a change has it while it is written down
            kept.hold["shop.Orders.v1"].set()
            await kept.until(lambda: len(kept.staged) == 1)
            for _ in range(20):
                await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        assert kept.registry.generations == ()
        await kept.stop()

    async def test_anyone_may_feed_the_reconciler(self, keep: Keep) -> None:
        """As another node does, whose change is written down already."""
        kept = keep()
        await kept.start()
        reconciler = kept.manager.reconciler
        row = DeploymentRow("shop.Orders.v1", "digest-of-shop.Orders.v1", "1.0.0", "elsewhere", "2026-01-01T00:00:00Z")

        async def written() -> DeploymentRow:
            return row

        async with reconciler.alone(row.service_id):
            applied = await reconciler.apply(Change(package(row.service_id), written), Stopwatch())
        assert applied.changes == ["a new service with 0 methods"]
        assert kept.states() == {"shop.Orders.v1": "ready"}
        assert kept.manager.list()[0].source == "elsewhere"

        async def forgotten() -> None: ...

        async with reconciler.alone(row.service_id):
            await reconciler.remove(row.service_id, forgotten)
        assert kept.states() == {}
        await kept.stop()

    async def test_a_stop_waits_for_the_change_under_way(self, keep: Keep) -> None:
        kept = keep()
        await kept.start()
        kept.hold["shop.Orders.v1"] = asyncio.Event()
        deploy = asyncio.create_task(kept.manager.deploy("shop.Orders.v1"))
        await kept.until(lambda: bool(kept.order))
        stop = asyncio.create_task(kept.stop())
        await asyncio.sleep(0)
        kept.hold["shop.Orders.v1"].set()
        with pytest.raises(UnavailableError, match="stopping"):
            await deploy
        await stop
        assert kept.rows == []


def died(folder: Path, times: int, *names: str) -> None:
    """Leaves the file of processes that died while these were staged."""
    attempts = "".join(f"= {name} digest-of-{name} {times - 1}\n+ {name} digest-of-{name}\n" for name in names)
    (folder / "starts").write_text(attempts)


class TestBreaker:
    ALL = ("shop.A.v1", "shop.B.v1", "shop.B.v2", "shop.C.v1")

    async def test_after_one_death_all_is_as_before(self, keep: Keep, tmp_path: Path) -> None:
        died(tmp_path, 1, "shop.A.v1")
        kept = keep(*self.ALL)
        await kept.start()
        assert kept.tables == [0, 4]
        assert kept.attempts.deaths("shop.A.v1", "digest-of-shop.A.v1") == 0, "it came up"
        await kept.stop()

    async def test_after_two_it_is_started_last_alone_and_keeps_its_place(self, keep: Keep, tmp_path: Path) -> None:
        died(tmp_path, 2, "shop.A.v1", "shop.B.v1")
        kept = keep(*self.ALL)
        kept.hold["shop.A.v1"] = asyncio.Event()
        await kept.manager.load()
        starting = asyncio.create_task(kept.manager.start())
        await kept.until(lambda: "shop.A.v1" in kept.order)
        assert kept.tables == [0, 2], "the others answer calls already"
        assert kept.states() == dict(zip(self.ALL, ("starting", "starting", "ready", "ready"), strict=True))
        assert kept.at_once == 1
        kept.hold["shop.A.v1"].set()
        await starting
        assert kept.order[2:] == ["shop.A.v1", "shop.B.v1"]
        assert tuple(str(each.id) for each in kept.registry.generations) == self.ALL
        await kept.stop()

    async def test_after_three_it_is_stopped_and_a_retry_starts_it(self, keep: Keep, tmp_path: Path) -> None:
        died(tmp_path, 3, "shop.B.v1")
        kept = keep(*self.ALL)
        await kept.start()
        assert "shop.B.v1" not in kept.order
        listed = {one.id: one for one in kept.manager.list()}["shop.B.v1"]
        assert listed.state == "stopped"
        assert "ended 3 times while this was being started" in (listed.last_error or "")
        assert "insula retry shop.B.v1" in (listed.last_error or "")
        assert kept.manager.stopped("shop.B.v1") == "shop.B.v1"

        done = await kept.manager.retry("shop.B.v1")
        assert done.status == "started"
        assert tuple(str(each.id) for each in kept.registry.generations) == self.ALL
        assert kept.states()["shop.B.v1"] == "ready"
        assert kept.attempts.deaths("shop.B.v1", "digest-of-shop.B.v1") == 0
        with pytest.raises(CallerError, match="is not stopped") as caught:
            await kept.manager.retry("shop.B.v1")
        assert caught.value.http_status == 409
        await kept.stop()
        assert (tmp_path / "starts").read_text() == ""

    async def test_another_digest_is_another_deployment(self, keep: Keep, tmp_path: Path) -> None:
        (tmp_path / "starts").write_text("= shop.A.v1 of-before 3\n")
        kept = keep(*self.ALL)
        await kept.start()
        assert kept.states()["shop.A.v1"] == "ready"
        await kept.stop()

    async def test_a_retry_that_fails_says_why(self, keep: Keep) -> None:
        kept = keep("shop.Broken.v1")
        await kept.start()
        with pytest.raises(UnavailableError, match="broken"):
            await kept.manager.retry("shop.Broken.v1")
        (listed,) = kept.manager.list()
        assert (listed.state, listed.last_error) == ("stopped", "it is broken")
        await kept.stop()

    async def test_undeploying_forgets_the_deaths(self, keep: Keep, tmp_path: Path) -> None:
        died(tmp_path, 3, "shop.A.v1")
        kept = keep("shop.A.v1")
        await kept.start()
        await kept.manager.undeploy("shop.A.v1")
        await kept.manager.deploy("shop.A.v1")
        await kept.stop()
        kept = keep("shop.A.v1")
        await kept.start()
        assert kept.states() == {"shop.A.v1": "ready"}
        await kept.stop()


class TestWhileItStarts:
    @pytest.fixture
    async def kept(self, keep: Keep) -> Kept:
        kept = keep("shop.A.v1", "shop.Broken.v1", "shop.B.v1")
        kept.hold["shop.A.v1"] = asyncio.Event()
        await kept.manager.load()
        return kept

    async def test_it_can_be_looked_at_and_takes_no_deployment(self, kept: Kept) -> None:
        assert set(kept.states().values()) == {"starting"}
        starting = asyncio.create_task(kept.manager.start())
        await kept.until(lambda: len(kept.order) == 3)
        assert (await kept.manager.show("shop.A.v1")).state == "starting"
        for change in (kept.manager.deploy("shop.New.v1"), kept.manager.rollback("shop.A.v1")):
            with pytest.raises(UnavailableError, match="starting"):
                await change
        with pytest.raises(CallerError, match="is not stopped"):
            await kept.manager.retry("shop.A.v1")
        kept.hold["shop.A.v1"].set()
        await starting
        assert kept.states() == {"shop.A.v1": "ready", "shop.Broken.v1": "stopped", "shop.B.v1": "ready"}
        await kept.manager.deploy("shop.New.v1")
        await kept.stop()

    @pytest.mark.parametrize("name", ["shop.A.v1", "shop.B.v1"])
    async def test_what_is_undeployed_meanwhile_is_called_off(self, kept: Kept, name: str) -> None:
        starting = asyncio.create_task(kept.manager.start())
        await kept.until(lambda: len(kept.order) == 3 and kept.at_once == 1)
        await kept.manager.undeploy(name)
        kept.hold["shop.A.v1"].set()
        await starting
        other = {"shop.A.v1": "shop.B.v1", "shop.B.v1": "shop.A.v1"}[name]
        assert kept.states() == {"shop.Broken.v1": "stopped", other: "ready"}
        assert [str(each.id) for each in kept.registry.generations] == [other]
        await kept.stop()

    async def test_a_start_that_is_cancelled_leaves_nothing_and_counts_no_death(self, kept: Kept) -> None:
        starting = asyncio.create_task(kept.manager.start())
        await kept.until(lambda: len(kept.order) == 3)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert kept.registry.generations == ()
        await kept.stop()
        again = await asyncio.to_thread(Attempts.open, kept.attempts._file.parent)
        assert again.deaths("shop.A.v1", "digest-of-shop.A.v1") == 0
        again.close()
