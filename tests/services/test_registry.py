from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.calls import Call, Reply, ServiceId
from insula.errors import CallerError, Code
from insula.packages.deployable import Deployable
from insula.published import Published
from insula.services.generation import Generation
from insula.services.limits import InForce
from insula.services.registry import Registry, Table
from insula.services.service import ServiceOptions
from tests.services.conftest import Bench
from tests.services.program import ManualClock, MemoryInstance


def generation(text: str) -> Generation:
    """A generation that answers with its own id."""
    service_id = ServiceId.parse(text)

    def answer(instance: MemoryInstance, scope: Any, method: str, payload: bytes) -> bytes:
        return text.encode()

    service = Bench(answer, ManualClock(), ServiceOptions(), service_id).service
    return Generation(cast("Deployable", None), Published(service_id), service, (), cast("InForce", None))


class TestNames:
    def test_full_and_latest(self) -> None:
        registry = Registry()
        first, second = generation("shop.Orders.v1"), generation("shop.Orders.v2")
        assert registry.install(first) is None
        assert registry.install(second) is None
        assert registry.find("shop.Orders.v1") is first
        assert registry.find("shop.Orders") is second
        assert registry.find("shop.Nothing") is None

    def test_removing_the_latest_exposes_the_one_before(self) -> None:
        registry = Registry()
        first, second = generation("shop.Orders.v1"), generation("shop.Orders.v2")
        registry.install(first)
        registry.install(second)
        assert registry.remove("shop.Orders.v2") is second
        assert registry.find("shop.Orders") is first

    def test_an_override_keeps_its_place(self) -> None:
        registry = Registry()
        first, second, again = generation("shop.Orders.v1"), generation("shop.Orders.v2"), generation("shop.Orders.v1")
        registry.install(first)
        registry.install(second)
        assert registry.install(again) is first
        assert registry.find("shop.Orders") is second
        assert registry.find("shop.Orders.v1") is again
        assert registry.generations == (again, second)

    def test_a_place_in_the_order(self) -> None:
        registry = Registry()
        first, second = generation("shop.Orders.v1"), generation("shop.Orders.v2")
        registry.install(second)
        registry.install(first, place=0)
        assert registry.generations == (first, second)
        assert registry.find("shop.Orders") is second

    def test_remove_takes_full_ids_alone(self) -> None:
        registry = Registry()
        registry.install(generation("shop.Orders.v1"))
        with pytest.raises(CallerError) as caught:
            registry.remove("shop.Orders")
        assert caught.value.code is Code.NOT_FOUND

    @pytest.mark.parametrize("pair", [("a.b.C", "a.b.C.v1"), ("a.b.v1", "a.b.v1.v1")])
    def test_a_name_that_two_services_would_answer_to(self, pair: tuple[str, str]) -> None:
        for one, other in (pair, reversed(pair)):
            registry = Registry()
            registry.install(generation(one))
            intruder = generation(other)
            for refuse in (registry.prepare_install, registry.install):
                with pytest.raises(CallerError) as caught:
                    refuse(intruder)
                assert caught.value.code is Code.ALREADY_EXISTS
            assert len(registry.generations) == 1


NAMES = ["shop.Orders.v1", "shop.Orders.v2", "shop.Orders.v3", "shop.Stock.v1", "a.b.C.v1"]


@given(st.lists(st.tuples(st.sampled_from(["install", "remove"]), st.sampled_from(NAMES)), max_size=25))
def test_order_against_a_plain_list(steps: list[tuple[str, str]]) -> None:
    registry = Registry()
    model: list[Generation] = []
    for action, name in steps:
        present = next((each for each in model if str(each.id) == name), None)
        if action == "install":
            new = generation(name)
            assert registry.install(new) is present
            if present is None:
                model.append(new)
            else:
                model[model.index(present)] = new
        elif present is None:
            with pytest.raises(CallerError):
                registry.remove(name)
        else:
            assert registry.remove(name) is present
            model.remove(present)
        assert registry.generations == tuple(model)
        for each in model:
            assert registry.find(each.id) is each
        for unversioned in {each.id.unversioned for each in model}:
            assert registry.find(unversioned) is [each for each in model if each.id.unversioned == unversioned][-1]


class TestCalls:
    async def test_submit(self) -> None:
        registry = Registry()
        each = generation("shop.Orders.v1")
        await each.service.start()
        registry.install(each)
        assert registry.submit(Call(each.id, "work", b"", 1e9)) == Reply(b"shop.Orders.v1")
        with pytest.raises(CallerError) as caught:
            registry.submit(Call(ServiceId("shop", "Orders", "v9"), "work", b"", 1e9))
        assert caught.value.code is Code.UNIMPLEMENTED
        await each.close()
        await each.close()

    async def test_who_found_the_old_plan_before_the_flip_is_answered_by_its_successor(self) -> None:
        registry = Registry()
        old, new = generation("shop.Orders.v1"), generation("shop.Orders.v1")
        await old.service.start()
        await new.service.start()
        registry.install(old)
        late = old.service.submit  # what a plan holds
        assert registry.install(new) is old
        await old.service.drain(1.0)
        await old.close()
        assert late(Call(old.id, "work", b"", 1e9)) == Reply(b"shop.Orders.v1")
        assert new.service.counts.calls == 1
        registry.remove("shop.Orders.v1")
        await new.close()
        with pytest.raises(CallerError) as caught:
            late(Call(old.id, "work", b"", 1e9))
        assert caught.value.code is Code.UNIMPLEMENTED

    def test_plan_of_what_is_not_there(self) -> None:
        registry = Registry()
        registry.install(generation("shop.Orders.v1"))
        for service, method in (("shop.Stock", "work"), ("shop.Orders", "nothing")):
            with pytest.raises(CallerError) as caught:
                registry.plan(service, method)
            assert caught.value.code is Code.UNIMPLEMENTED


def names(table: Table) -> tuple[str, ...]:
    return tuple(str(each.id) for each in table.generations)


class TestFollowers:
    def test_between_the_two_steps_nothing_has_changed(self) -> None:
        registry = Registry()
        seen: list[tuple[str, ...]] = []
        registry.follow(lambda table: lambda: seen.append(names(table)))
        flip = registry.prepare_install(generation("shop.Orders.v1"))
        assert (registry.generations, seen) == ((), [()])
        assert flip() is None
        assert seen[-1] == ("shop.Orders.v1",)
        remove = registry.prepare_removal("shop.Orders.v1")
        other = registry.prepare_install(generation("shop.Stock.v1"))
        remove()
        with pytest.raises(RuntimeError, match="has changed"):
            other()

    def test_one_that_fails_to_follow_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        registry = Registry()
        seen: list[tuple[str, ...]] = []
        broken = [0]
        registry.follow(lambda table: lambda: print(1 // len(broken)))
        registry.follow(lambda table: lambda: seen.append(names(table)))
        broken.clear()
        registry.install(generation("shop.Orders.v1"))
        assert seen[-1] == ("shop.Orders.v1",)
        assert "a follower of the registry failed" in caplog.text

    def test_they_see_each_table_whole(self) -> None:
        registry = Registry()
        seen: list[tuple[str, ...]] = []
        stop = registry.follow(lambda table: lambda: seen.append(names(table)))
        registry.install(generation("shop.Orders.v1"))
        registry.install(generation("shop.Orders.v2"))
        registry.remove("shop.Orders.v1")
        stop()
        registry.remove("shop.Orders.v2")
        assert seen == [(), ("shop.Orders.v1",), ("shop.Orders.v1", "shop.Orders.v2"), ("shop.Orders.v2",)]

    def test_several_at_once_are_one_table_or_none(self) -> None:
        registry = Registry()
        seen: list[tuple[str, ...]] = []
        registry.follow(lambda table: lambda: seen.append(names(table)))
        registry.install(generation("shop.Stock.v1"))
        registry.fill([generation("shop.Orders.v1"), generation("shop.Orders.v2")])
        with pytest.raises(CallerError):
            registry.fill([generation("shop.Bills.v1"), generation("shop.Orders.v1.v1")])
        assert seen == [
            (),
            ("shop.Stock.v1",),
            ("shop.Stock.v1", "shop.Orders.v1", "shop.Orders.v2"),
        ]
        assert str(registry.find("shop.Orders").id) == "shop.Orders.v2"  # type: ignore[union-attr]

    def test_one_that_refuses_undoes_the_change_for_all(self) -> None:
        registry = Registry()
        seen: list[Table] = []

        def refuse(table: Table) -> Callable[[], None]:
            if len(table.generations) > 1:
                raise CallerError("no room", code=Code.ALREADY_EXISTS)
            return lambda: None

        registry.follow(lambda table: lambda: seen.append(table))
        registry.follow(refuse)
        registry.install(generation("shop.Orders.v1"))
        before = registry.table
        with pytest.raises(CallerError, match="no room"):
            registry.install(generation("shop.Orders.v2"))
        assert registry.table is before
        assert seen[-1] is before
