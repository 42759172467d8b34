"""The file of attempts, as the next process reads it."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.deployments import attempts as module
from insula.deployments.attempts import Attempt, Attempts

A, B = Attempt("shop.A.v1", "a" * 64), Attempt("shop.B.v1", "b" * 64)


#: Stagings in which the process died: held, so that they do not end with their last reference.
dead: list[object] = []


async def die_in(attempts: Attempts, *all_: Attempt) -> None:
    """What is there when the process dies while these are staged."""
    stagings = [attempts.marked(*attempt) for attempt in all_]
    dead.extend(stagings)
    await asyncio.gather(*(staging.__aenter__() for staging in stagings))


async def opened(folder: Path) -> Attempts:
    return await asyncio.to_thread(Attempts.open, folder)


async def deaths(folder: Path) -> tuple[int, int]:
    """What a process that starts now knows of A and B; it ends in order."""
    attempts = await opened(folder)
    attempts.close()
    return attempts.deaths(*A), attempts.deaths(*B)


async def test_a_death_is_counted_and_an_end_is_not(tmp_path: Path) -> None:
    assert await deaths(tmp_path) == (0, 0)
    for count in (1, 2, 3):
        attempts = await opened(tmp_path)
        async with attempts.marked(*B):
            pass
        await die_in(attempts, A)
        attempts.close()
        assert await deaths(tmp_path) == (count, 0)
    assert await deaths(tmp_path) == (3, 0), "a start that does not try it leaves it as it is"
    attempts = await opened(tmp_path)
    async with attempts.marked(*A):
        assert attempts.deaths(*A) == 3
    assert attempts.deaths(*A) == 0
    attempts.close()
    assert await deaths(tmp_path) == (0, 0)


async def test_a_failure_clears_and_what_was_called_off_does_not(tmp_path: Path) -> None:
    (tmp_path / "starts").write_text(f"= {A[0]} {A[1]} 2\n= {B[0]} {B[1]} 2\n")
    attempts = await opened(tmp_path)
    with pytest.raises(KeyError):
        async with attempts.marked(*A):
            raise KeyError
    with pytest.raises(asyncio.CancelledError):
        async with attempts.marked(*B):
            raise asyncio.CancelledError
    attempts.close()
    assert await deaths(tmp_path) == (0, 2)


async def test_those_that_are_staged_together_share_the_blame(tmp_path: Path) -> None:
    attempts = await opened(tmp_path)
    await die_in(attempts, A, B)
    attempts.close()
    assert await deaths(tmp_path) == (1, 1)


async def test_what_is_no_longer_written_down_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "starts").write_text(f"= {A[0]} {A[1]} 3\n= {B[0]} {B[1]} 3\n")
    attempts = await opened(tmp_path)
    attempts.keep([A])
    await attempts.forget(B.service_id)
    async with attempts.marked("shop.C.v1", "c"):
        pass
    attempts.close()
    assert await deaths(tmp_path) == (3, 3), "the file has it until it is written anew"
    attempts = await opened(tmp_path)
    await attempts.forget(A.service_id)
    await attempts.forget(B.service_id)
    attempts.close()
    assert await deaths(tmp_path) == (0, 0)


async def test_begin_is_on_the_disk_before_the_staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    flush = os.fdatasync

    def watched(handle: int) -> None:
        flushed.append((tmp_path / "starts").read_text())
        flush(handle)

    monkeypatch.setattr(os, "fdatasync", watched)
    attempts = await opened(tmp_path)

    async def staged(attempt: Attempt) -> None:
        async with attempts.marked(*attempt):
            assert any(f"+ {attempt.service_id} " in text for text in flushed)

    await asyncio.gather(*(staged(Attempt(f"shop.A{number}.v1", "d")) for number in range(40)))
    attempts.close()
    assert len(flushed) < 30, "lines that wait share a flush"
    assert (tmp_path / "starts").read_text() == "", "nothing is left once all have ended"


async def test_the_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 1000)
    (tmp_path / "starts").write_text(f"= {A[0]} {A[1]} 3\n")
    attempts = await opened(tmp_path)
    for _ in range(50):
        async with attempts.marked(*B):
            pass
        assert (tmp_path / "starts").stat().st_size < 1500
    attempts.close()
    assert await deaths(tmp_path) == (3, 0)


async def test_a_disk_that_takes_nothing_stops_no_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "starts").mkdir()
    attempts = await opened(tmp_path)
    async with attempts.marked(*A):
        pass
    attempts.close()
    assert "starts cannot be used" in caplog.text

    full = await asyncio.to_thread(os.open, "/dev/full", os.O_WRONLY)
    caplog.clear()
    attempts = Attempts(tmp_path / "full", full, {})
    for _ in range(3):
        await die_in(attempts, A)
    attempts.close()
    assert [record.levelno for record in caplog.records] == [logging.ERROR], "it is said once"


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")), st.integers(0, 120))
async def test_whatever_the_file_holds_the_server_starts(
    tmp_path_factory: pytest.TempPathFactory, text: str, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("attempts")
    good = f"= {A[0]} {A[1]} 2\n+ {B[0]} {B[1]}\n"

    def write(content: str) -> None:
        (folder / "starts").write_text(content, "utf-8", "replace")

    await asyncio.to_thread(write, text + "\n" + good)
    assert await deaths(folder) == (2, 1)
    await asyncio.to_thread(write, good[:cut])
    first, second = await deaths(folder)
    assert (first in (0, 2), second in (0, 1)) == (True, True)
