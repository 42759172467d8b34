"""Threads that the system may refuse: nothing is lost by it, and all is well again once it gives them."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from functools import partial

import pytest

from insula.errors import UnavailableError
from insula.threads import Threads
from tests.scarce import refuse_threads


async def test_what_is_returned_and_raised_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    threads = Threads(2, "insula-test")
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)
    assert caplog.text == ""
    threads.close()
    threads.close()
    assert await threads.ended(10)
    with pytest.raises(UnavailableError, match="the server is stopping"):
        threads.run(divmod, 7, 2)


async def test_the_first_thread_is_refused_and_given_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    threads = Threads(2, "insula-test")
    done: list[str] = []
    with refuse_threads(monkeypatch):
        threads.start()
        for _ in range(5):
            with pytest.raises(UnavailableError, match="starts no more threads") as refused:
                threads.run(done.append, "refused")
    assert "ulimit -u" in (refused.value.hint or "")
    assert len(caplog.records) == 1, "told once, not at every request"
    await threads.run(done.append, "done")
    assert done == ["done"], "what was refused is not done later"
    threads.close()
    assert await threads.ended(10)


async def test_a_further_thread_is_refused_and_the_others_do_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, go = Threads(2, "insula-test"), threading.Event()
    first = threads.run(go.wait, 30)
    with refuse_threads(monkeypatch):
        second = threads.run(str, 2)
    assert not second.done()
    go.set()
    assert (await first, await second) == (True, "2")
    threads.close()
    assert await threads.ended(10)


async def test_the_end_does_not_wait_for_ever_and_errors_that_nobody_hears_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = list[str]()
    threads, go, begun = (
        Threads(1, "insula-test", leave=lambda: left.append("left")),
        threading.Event(),
        asyncio.Event(),
    )
    loop = asyncio.get_running_loop()

    def fails() -> None:
        loop.call_soon_threadsafe(begun.set)
        go.wait(30)
        raise KeyError("lost")

    work = threads.run(fails)
    await begun.wait()
    work.cancel()
    withdrawn = threads.run(left.append, "withdrawn")
    withdrawn.cancel()
    threads.close()
    assert not await threads.ended(0.05)
    go.set()
    with caplog.at_level(logging.ERROR):
        assert await threads.ended(10)
    assert "KeyError: 'lost'" in caplog.text
    assert left == ["left"]


async def test_threads_that_nobody_has_any_more_end() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    threads = Threads(2, "insula-test", leave=partial(loop.call_soon_threadsafe, ended.set))
    assert await threads.run(str, 1) == "1"
    del threads
    gc.collect()
    async with asyncio.timeout(10):
        await ended.wait()
