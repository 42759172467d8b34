"""When the depot is swept, and what is kept."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest

from insula.background import Tasks
from insula.deployments.sweeping import Sweeping
from insula.errors import UnavailableError


class Around:
    """A depot that notes each sweep with what it was to keep, and the repository beside it."""

    def __init__(self) -> None:
        self.there: frozenset[str] = frozenset()
        self.needed: set[str] = set()
        self.swept: list[frozenset[str]] = []
        self.broken = False
        self.tasks = Tasks()
        self.sweeping = Sweeping(
            depot=cast("Any", self), repository=cast("Any", Repository(self)), background=self.tasks
        )

    async def digests(self) -> frozenset[str]:
        return self.there

    async def sweep(self, keep: frozenset[str]) -> None:
        self.swept.append(frozenset(keep))

    async def settled(self) -> None:
        assert await self.tasks.ended(10)


class Repository:
    def __init__(self, around: Around) -> None:
        self._around = around

    async def digests(self) -> set[str]:
        if self._around.broken:
            raise UnavailableError("the database is away")
        return self._around.needed


@pytest.fixture
async def around() -> Around:
    return Around()


async def test_it_waits_for_everyone_who_holds_it_off_and_comes_once(around: Around) -> None:
    async with around.sweeping.held_off():
        async with around.sweeping.held_off():
            around.sweeping.later()
            around.sweeping.later()
        for _ in range(10):
            await asyncio.sleep(0)
        assert around.swept == []
        around.needed = {"written down meanwhile"}
    await around.settled()
    assert around.swept == [{"written down meanwhile"}]
    around.sweeping.later()
    await around.settled()
    assert len(around.swept) == 2


async def test_packages_of_another_database_are_kept(around: Around, caplog: pytest.LogCaptureFixture) -> None:
    around.there, around.needed = frozenset({"a", "b"}), {"c"}
    await around.sweeping.keep_what_is_there()
    assert "the depot has 2 packages and the database no deployment" in caplog.text
    around.sweeping.later()
    await around.settled()
    assert around.swept == [{"a", "b", "c"}]


async def test_an_empty_depot_is_no_reason_for_a_warning(around: Around, caplog: pytest.LogCaptureFixture) -> None:
    await around.sweeping.keep_what_is_there()
    assert caplog.text == ""


async def test_one_that_fails_is_logged_and_the_next_comes(around: Around, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    around.broken = True
    around.sweeping.later()
    await around.settled()
    assert "the depot was not swept: the database is away" in caplog.text
    around.broken = False
    around.sweeping.later()
    await around.settled()
    assert around.swept == [frozenset()]


async def test_none_begins_after_the_stop(around: Around) -> None:
    around.sweeping.stop()
    around.sweeping.later()
    await around.settled()
    assert around.swept == []
