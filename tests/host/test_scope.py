"""What must be undone when a call or an instance ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from insula.errors import LimitError
from insula.host.scope import MAX_ENDINGS, Home, Scope
from tests.host.conftest import ID, scope


@pytest.fixture(params=["scope", "home"])
def place(request: pytest.FixtureRequest) -> Scope | Home:
    return scope() if request.param == "scope" else Home(ID)


async def test_the_last_is_undone_first_and_each_once(place: Scope | Home) -> None:
    undone: list[int] = []
    for number in range(3):
        place.on_end(lambda number=number: undone.append(number))  # type: ignore[misc]
    assert undone == []
    place.end()
    place.end()
    assert undone == [2, 1, 0]


async def test_one_that_fails_is_logged_and_the_others_are_undone(
    place: Scope | Home, caplog: pytest.LogCaptureFixture
) -> None:
    undone: list[str] = []

    def fails() -> None:
        raise KeyError("gone")

    place.on_end(lambda: undone.append("first"))
    place.on_end(fails)
    place.on_end(lambda: undone.append("last"))
    place.end()
    assert undone == ["last", "first"]
    assert "could not be" in caplog.text


async def test_what_ended_by_itself_is_withdrawn(place: Scope | Home) -> None:
    undone: list[str] = []
    withdraw = place.on_end(lambda: undone.append("it"))
    withdraw()
    withdraw()
    place.end()
    withdraw()
    assert undone == []


async def test_there_are_so_many_at_a_time(place: Scope | Home) -> None:
    undone: list[int] = []
    withdraws: list[Callable[[], None]] = [place.on_end(lambda: undone.append(0)) for _ in range(MAX_ENDINGS)]
    with pytest.raises(LimitError, match=f"at most {MAX_ENDINGS}"):
        place.on_end(lambda: undone.append(1))
    withdraws[0]()
    place.on_end(lambda: undone.append(2))
    place.end()
    assert undone == [2] + [0] * (MAX_ENDINGS - 1)


async def test_one_that_comes_after_the_end_is_undone_on_the_loop(place: Scope | Home) -> None:
    """The guest of a call that was given up may still be in a host function, in a thread."""
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    place.end()
    await asyncio.to_thread(place.on_end, lambda: done.set_result(threading.current_thread().name))
    assert await done == threading.main_thread().name


async def test_many_threads_and_an_end_undo_each_once() -> None:
    for _ in range(50):
        place: Any = scope()
        undone: list[int] = []
        begun = threading.Barrier(5)

        def add(first: int, place: Any = place, begun: threading.Barrier = begun, undone: list[int] = undone) -> None:
            begun.wait()
            for number in range(first, first + 20):
                place.on_end(lambda number=number: undone.append(number))

        threads = [asyncio.create_task(asyncio.to_thread(add, first * 20)) for first in range(4)]
        await asyncio.to_thread(begun.wait)
        place.end()
        await asyncio.gather(*threads)
        await asyncio.sleep(0)
        assert sorted(undone) == list(range(80))


async def test_what_a_capability_keeps() -> None:
    call, home = scope(), Home(ID)
    assert call.keep("it", list) is call.keep("it", list)
    home.kept["it"] = 1
    home.end()
    assert home.kept == {}
