"""Work that nobody awaits has an owner that tells."""

from __future__ import annotations

import ast
import asyncio
import gc
import weakref
from pathlib import Path

import pytest

from insula.background import Tasks, carried_through, fail, thread, told
from insula.errors import LimitError, forget_frames
from insula.offload import Offload
from insula.threads import Threads


async def fails() -> None:
    raise KeyError("lost")


async def test_a_task_tells_its_error_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    task = tasks.start(fails(), "the sweep")
    assert await tasks.ended(10)
    assert task.done()
    assert "the sweep failed" in caplog.text
    assert "KeyError: 'lost'" in caplog.text


async def test_what_is_held_tells_too(caplog: pytest.LogCaptureFixture) -> None:
    held = told(asyncio.create_task(fails()), "the ticker", endless=True)
    await asyncio.wait([held])
    ended = told(asyncio.create_task(asyncio.sleep(0)), "another", endless=True)
    await asyncio.wait([ended])
    await asyncio.sleep(0)
    assert "the ticker failed" in caplog.text
    assert "another ended, and it should not" in caplog.text


async def test_a_cancellation_and_a_plain_end_are_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    tasks.start(asyncio.sleep(0), "quick")
    tasks.start(asyncio.sleep(3600), "slow").cancel()
    assert not await tasks.ended(0)
    assert await tasks.ended(10)
    assert caplog.text == ""


async def test_what_is_carried_through_ends_before_its_caller(caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on, steps = asyncio.Event(), asyncio.Event(), list[str]()

    async def work() -> int:
        begun.set()
        await go_on.wait()
        steps.append("done")
        return 3

    go_on.set()
    assert await carried_through(work(), "a change") == 3
    begun.clear()
    go_on.clear()
    caller = asyncio.create_task(carried_through(work(), "a change"))
    await begun.wait()
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps == ["done", "done"]

    with pytest.raises(KeyError):
        await carried_through(fails(), "a change")
    assert caplog.text == "", "an error that somebody gets is theirs to tell"
    lost = asyncio.create_task(carried_through(fails(), "a lost change"))
    await asyncio.sleep(0)
    lost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lost
    await asyncio.sleep(0)
    assert "a lost change failed" in caplog.text


def test_a_thread_tells(caplog: pytest.LogCaptureFixture) -> None:
    def lost() -> None:
        raise KeyError("lost")

    one = thread(lost, "insula-test")
    assert one.daemon
    one.start()
    one.join(10)
    assert "the thread insula-test ended, and it should not" in caplog.text
    assert "KeyError: 'lost'" in caplog.text


#: Where a task or a thread is made without `background`, and who hears of its errors there.
OWNERS = {
    "api/operations.py": "it is an answer, and waited for",
    "background.py": "this is the owner",
    "transcoding/service.py": "the caller waits",
    "transcoding/store.py": "its error is logged, and told to those who wait",
    "deployments/starting.py": "the start asks each for its result",
    "edge/app.py": "the watcher, and a rule that waits, are asked by who waits for them",
    "edge/plain.py": "the page is an answer, and waited for",
    "logs.py": "the log cannot tell its own end: Python says it on standard error",
    "packages/blocking.py": "the caller waits, or its error is logged",
    "server.py": "the start is waited for",
    "services/pool.py": "the pool is told of each start and of each end",
    "wasm/compile.py": "a process of its own, whose standard error the server reads",
    "wasm/compiler.py": "the caller waits",
    "wasm/modules.py": "those that load the module wait",
    "wasm/scheduler.py": "the guest is told, and the broker logs",
}
MAKERS = {"create_task", "ensure_future", "Thread", "run_in_executor"}


def test_every_task_and_thread_has_an_owner() -> None:
    source = Path(__file__).parent.parent / "src" / "insula"
    made = set()
    for path in sorted(source.rglob("*.py")):
        tree = ast.parse(path.read_text())
        kept = {  # told(asyncio.create_task(…)), in one expression or by way of a name
            argument
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "told"
            for argument in (ast.unparse(node.args[0]),)
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in MAKERS
                and ast.unparse(node) not in kept
                and not _named(tree, node, kept)
            ):
                made.add(str(path.relative_to(source)))
    assert made == OWNERS.keys(), "say who hears of its errors, or let insula.background be its owner"


def _named(tree: ast.AST, call: ast.Call, kept: set[str]) -> bool:
    return any(
        isinstance(node, ast.Assign) and node.value is call and ast.unparse(node.targets[0]) in kept
        for node in ast.walk(tree)
    )


class Held:
    """What the frame of a failure has in hand: a body of megabytes."""


@pytest.mark.parametrize("where", ["a future", "a thread", "a thread of the services"])
async def test_a_refusal_leaves_no_frames_behind(where: str) -> None:
    """A future would keep them, and they the future: what they hold would wait for the garbage collector."""
    held: list[weakref.ref[Held]] = []

    def refuse() -> None:
        body = Held()
        held.append(weakref.ref(body))
        raise LimitError("too much")

    threads, offload = Threads(1, "test"), Offload()
    gc.disable()
    try:
        future: asyncio.Future[None]
        if where == "a thread":
            future = threads.run(refuse)
        elif where == "a thread of the services":
            future = offload.run("a", refuse)
        else:
            future = asyncio.get_running_loop().create_future()
            try:
                refuse()
            except LimitError as error:
                fail(future, error)
        try:
            await future
        except LimitError as error:
            forget_frames(error)  # as the edge does, once it has told it
        del future
        await asyncio.sleep(0)
        assert held[0]() is None
    finally:
        gc.enable()
        offload.close()
        threads.close()
