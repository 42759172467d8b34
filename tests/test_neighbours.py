"""A whole server of which one service takes all that it can get: what is left to the others, and who is refused."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.guests import wat
from tests.packing import pack
from tests.running import Process, process, running

MB = 1 << 20
GREET = ("/examples.Greeter/greet", {"name": "x"})
SLOW = 30_000_000  # rounds of a guest's loop that take many slices, wherever this runs

HOST = '(import "okra" "run_host_api" (func $host (param i32 i32) (result i32 i32)))'
GUEST = """(module {imports}
  (memory (export "memory") 16)
  (data (i32.const 1024) "{{\\22text\\22:\\22x\\22}}") (data (i32.const 65536) "{request}")
  (func $spin (param $rounds i64) (loop $more
    (br_if $more (i64.ne (i64.const 0) (local.tee $rounds (i64.sub (local.get $rounds) (i64.const 1)))))))
  (func (export "allocate") (param $size i32) (result i32) (i32.const 131072))
  (func (export "deallocate") (param i32))
  (func (export "handle_request") (param i32 i32 i32 i32) (result i64) (local $n i32)
    {body}
    (i64.const {answer})))"""
#: A call whose request is not answered with success is answered with an error.
SUCCESS = f"""drop local.set $n
  (if (i32.ne (i32.const {ord("t")}) (i32.load8_u offset={len('{"success":')} (local.get $n)))
    (then (return (i64.const 0))))"""
IDL = '@okra(namespace: "test", version: "v1")\nservice {name} {{ run(): Text }}\ntype Text {{ text: String! }}'


def guest(
    folder: Path, name: str, body: str = "", request: Any = None, limits: Mapping[str, int] | None = None
) -> Path:
    """The package of `test.NAME`, whose one method `run` does `body` and then asks the host for `request`."""
    text = json.dumps(request, separators=(",", ":")) if request else ""
    ask = f"(call $host (i32.const 65536) (i32.const {len(text)})) {SUCCESS}" if request else ""
    wasm = GUEST.format(
        imports=HOST if request else "",
        request=text.replace('"', "\\22"),
        body=body + ask,
        answer=1024 << 32 | len('{"text":"x"}'),
    )
    apis = [request["api"]] if request else []
    whole = {"timeout_ms": 60_000, **(limits or {})}
    return pack(
        folder / f"{name}.okra.pkg",
        IDL.format(name=name),
        wat(wasm).read_bytes(),
        host_apis=apis,
        limits=whole,
    )


def spin(rounds: int) -> str:
    return f"(call $spin (i64.const {rounds}))"


def grown(pages: int) -> str:
    """Grows by so many pages of 64 KiB and touches all that is there from 1 MiB on."""
    return f"""(drop (memory.grow (i32.const {pages})))
      (memory.fill (i32.const {MB}) (i32.const 1) (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const {MB})))"""


def asking(api: str, method: str, **parameters: Any) -> dict[str, Any]:
    return {"api": api, "method": method, "parameters": parameters}


SLEEP = asking("okra.time", "sleep", milliseconds=50_000)
WRITE = asking("okra.state", "set", key="k", value=1)
LOOP = "(loop $for (br $for))"


async def call(url: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
    """One call on a connection of its own, of which thousands may be under way."""
    host, port = url.removeprefix("http://").split(":")
    payload = json.dumps(body or {}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload)
        answer = await reader.read()
    finally:
        writer.close()
    start, _, content = answer.partition(b"\r\n\r\n")
    return int(start.split(b" ", 2)[1]), json.loads(content)


def run(name: str) -> str:
    return f"/test.{name}/run"


async def statuses(*calls: Any) -> Counter[int]:
    return Counter(status for status, _ in await asyncio.gather(*calls))


def begin(url: str, path: str, count: int) -> list[asyncio.Task[tuple[int, Any]]]:
    """So many calls that are not waited for."""
    return [asyncio.create_task(call(url, path)) for _ in range(count)]


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def deployed(server: Process, *packages: Path) -> None:
    for package in packages:
        answer = server.deploy(package)
        assert answer.status_code == 200, answer.text


async def deploys(server: Process, package: Path) -> None:
    """A deploy, and a call of what was deployed."""
    answer = await asyncio.to_thread(server.deploy, package)
    assert answer.status_code == 200, answer.text
    assert await statuses(call(server.url, run(package.name.split(".")[0]))) == {200: 1}


# Queues and pools: who is refused is who took them


async def test_waiting_writes_of_two_services_are_in_nobody_elses_way(tmp_path: Path) -> None:
    """The database does not come to write, and two services have more writes waiting than there is room for. Another's
    write and a deploy wait like all others, and are done once it goes on."""
    many = {"max_instances": 700, "mailbox": 4096}
    with process(tmp_path, "--deploy", "greeter") as server:
        deployed(server, *(guest(tmp_path, f"Greedy{n}", request=WRITE, limits=many) for n in range(2)))
        deployed(server, guest(tmp_path, "Modest", request=WRITE))
        other = guest(tmp_path, "Other")
        with closing(sqlite3.connect(tmp_path / "insula-data" / "insula.db", isolation_level=None)) as locked:
            locked.execute("BEGIN IMMEDIATE")
            greedy = [task for n in range(2) for task in begin(server.url, run(f"Greedy{n}"), 700)]
            while not any(task.done() for task in greedy):  # until the first is told that there is no more room
                await call(server.url, *GREET)
            modest = begin(server.url, run("Modest"), 8)
            deploying = asyncio.create_task(asyncio.to_thread(server.deploy, other))
            await call(server.url, *GREET)
            locked.execute("ROLLBACK")
        assert await statuses(*modest) == {200: 8}
        assert (await deploying).status_code == 200
        told = await statuses(*greedy)
    assert told[200]
    # the guest whose write is refused ends with an error of its own; calls that find no room with the workers are refused
    assert told.keys() <= {200, 429, 500}


async def test_two_services_whose_guests_sleep_leave_room_for_a_third(tmp_path: Path) -> None:
    """All fibers of the process are fewer than these two may have instances."""
    many = {"max_instances": 1024, "mailbox": 1024}
    with process(tmp_path, "--deploy", "greeter") as server:
        short = asking("okra.time", "sleep", milliseconds=1)
        deployed(server, *(guest(tmp_path, f"Sleeper{n}", request=SLEEP, limits=many) for n in range(2)))
        deployed(server, guest(tmp_path, "Third", request=short))
        asleep = [task for n in range(2) for task in begin(server.url, run(f"Sleeper{n}"), 1100)]
        for _ in range(30):
            assert await statuses(*(call(server.url, run("Third")) for _ in range(4))) == {200: 4}
            assert await statuses(call(server.url, *GREET)) == {200: 1}
        await deploys(server, guest(tmp_path, "Fourth"))
        refused = {task.result()[1]["code"] for task in asleep if task.done()}
        assert refused <= {"resource_exhausted", "unavailable"}
        await end(*asleep)


async def test_slow_calls_of_two_services_that_wait_are_in_nobody_elses_way(tmp_path: Path) -> None:
    with process(tmp_path, "--deploy", "greeter") as server:
        many = {"max_instances": 1024, "mailbox": 4096}
        deployed(server, *(guest(tmp_path, f"Greedy{n}", LOOP, limits=many) for n in range(2)))
        deployed(server, guest(tmp_path, "Other", spin(SLOW)))
        for _ in range(8):  # from now on it is known to be slow
            assert await statuses(call(server.url, run("Other"))) == {200: 1}
        waiting = [task for n in range(2) for task in begin(server.url, run(f"Greedy{n}"), 900)]
        while not any(task.done() for task in waiting):  # until the first is told that there is no more room
            await call(server.url, *GREET)
        for _ in range(5):
            assert await statuses(*(call(server.url, run("Other")) for _ in range(2))) == {200: 2}
            assert await statuses(call(server.url, *GREET)) == {200: 1}
        await deploys(server, guest(tmp_path, "Third", spin(SLOW)))
        assert not all(task.done() for task in waiting)
        await end(*waiting)


async def test_guests_that_hold_all_threads_leave_turns_to_another(tmp_path: Path) -> None:
    """Its slow call ends while theirs go on."""
    with process(tmp_path, "--deploy", "greeter") as server:
        deployed(server, *(guest(tmp_path, f"Looper{n}", LOOP) for n in range(4)))
        deployed(server, guest(tmp_path, "Fifth", spin(SLOW)))
        loops = [task for n in range(4) for task in begin(server.url, run(f"Looper{n}"), 8)]
        for _ in range(5):
            assert await statuses(call(server.url, run("Fifth"))) == {200: 1}
        await deploys(server, guest(tmp_path, "Sixth", spin(SLOW)))
        assert not any(task.done() for task in loops)
        await end(*loops)


@pytest.mark.parametrize(("loopers", "callers"), [(1, 1), (4, 8)], ids=["one", "many"])
async def test_dead_instances_are_freed_while_guests_loop(tmp_path: Path, loopers: int, callers: int) -> None:
    count = 100
    async with running(tmp_path) as live:
        dying = guest(
            tmp_path, "Dying", grown(80), SLEEP, {"timeout_ms": 5000, "max_instances": count, "mailbox": 1024}
        )
        for package in (
            dying,
            *(guest(tmp_path, f"Looper{n}", LOOP, limits={"timeout_ms": 40_000}) for n in range(loopers)),
        ):
            assert (await live.deploy(package)).status_code == 200
        memory = psutil.Process().memory_info
        empty = memory().rss
        dead = begin(live.url, run("Dying"), count)
        while memory().rss < empty + count * 4 * MB:
            assert await statuses(call(live.url, run("Looper0") + "s")) == {404: 1}
            assert not any(task.done() for task in dead), "all are there at once"
        loops = [task for n in range(loopers) for task in begin(live.url, run(f"Looper{n}"), callers)]
        assert 200 not in {status for status, _ in await asyncio.gather(*dead)}
        while memory().rss > empty + count * MB:
            assert await statuses(call(live.url, run("Looper0") + "s")) == {404: 1}
            assert not any(task.done() for task in loops), "they are freed only now that the threads are free"
        await end(*loops)


# Memory of all guests together


@contextmanager
def weighed(server: Process) -> Iterator[list[int]]:
    """The most memory that the server had inside, above what it had before, in its one item. It is looked at all the
    time: what was there for a moment counts."""
    one = psutil.Process(server.popen.pid)
    base = one.memory_info().rss
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.is_set():
            most[0] = max(most[0], one.memory_info().rss - base)
            time.sleep(0.002)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield most
    finally:
        over.set()
        looking.join()


IN_STEPS = f"""(loop $more (if (i32.ne (i32.const -1) (memory.grow (i32.const 16))) (then
  (memory.fill (i32.shl (i32.sub (memory.size) (i32.const 16)) (i32.const 16)) (i32.const 1) (i32.const {MB}))
  (br_if $more (i32.lt_u (memory.size) (i32.const 4000))))))"""


@pytest.mark.parametrize("body", [grown(3980), IN_STEPS, f"{IN_STEPS} {spin(SLOW)}"], ids=["once", "steps", "slow"])
async def test_guests_never_have_more_memory_together_than_is_theirs(tmp_path: Path, body: str) -> None:
    """Each may have nearly all of it, four want it at once, and a fill of it is one instruction."""
    bound = 300
    (tmp_path / "insula.toml").write_text(f"[limits]\nguest_memory_mb = {bound}\nworker_threads = 4\n")
    with process(tmp_path, "--deploy", "greeter", "--config", str(tmp_path / "insula.toml")) as server:
        deployed(server, *(guest(tmp_path, f"Grower{n}", body, limits={"memory_mb": 240}) for n in range(4)))
        assert await statuses(call(server.url, *GREET)) == {200: 1}
        greeted: Counter[int] = Counter()
        with weighed(server) as most:
            answers: list[tuple[int, Any]] = []
            for _ in range(5):
                calls = [task for n in range(4) for task in begin(server.url, run(f"Grower{n}"), 2)]
                while not all(task.done() for task in calls):
                    greeted += await statuses(call(server.url, *GREET))
                answers += [task.result() for task in calls]
        assert greeted.keys() == {200}, "who is refused is who took it"
        assert {status for status, _ in answers} <= {200, 429, 503}
        assert {told["code"] for status, told in answers if status == 429} <= {"resource_exhausted"}
        assert most[0] < bound * 1.1 * MB
        assert await statuses(call(server.url, run("Grower0"))) == {200: 1}, "all of it was given back"


async def test_one_guest_alone_may_have_all_that_there_is_room_for(tmp_path: Path) -> None:
    """A bound for all is no smaller limit for one, up to four fifths of it: others that are idle, or busy with little, take
    nothing from it."""
    (tmp_path / "insula.toml").write_text("[limits]\nguest_memory_mb = 300\nworker_threads = 4\n")
    with process(tmp_path, "--config", str(tmp_path / "insula.toml")) as server:
        deployed(server, guest(tmp_path, "Grower", grown(3800), limits={"memory_mb": 240}))
        deployed(server, *(guest(tmp_path, f"Small{n}", spin(SLOW)) for n in range(3)))
        for _ in range(5):
            small = begin(server.url, run("Small0"), 2) + begin(server.url, run("Small1"), 2)
            assert await statuses(call(server.url, run("Grower"))) == {200: 1}
            assert {status for status, _ in await asyncio.gather(*small)} == {200}


# Time of the loop


async def test_calls_of_some_milliseconds_do_not_keep_the_loop_to_themselves(tmp_path: Path) -> None:
    """Of sixty-four calls that come at once, each a slice and less, the loop takes a few in a turn. Turns are counted, not
    timed: today's machine may be a slow one."""
    callers = 64
    async with running(tmp_path, deploy=["greeter"]) as live:
        package = guest(tmp_path, "Worker", spin(rounds_of_a_millisecond() * 2), limits={"max_instances": callers})
        assert (await live.deploy(package)).status_code == 200
        loop = asyncio.get_running_loop()
        in_turn: Counter[int] = Counter()
        turn = 0

        def next_turn() -> None:
            nonlocal turn
            turn += 1
            if not over:
                loop.call_soon(next_turn)

        async def caller() -> None:
            for _ in range(3):
                assert (await call(live.url, run("Worker")))[0] == 200
                in_turn[turn] += 1

        over = False
        await asyncio.gather(*(caller() for _ in range(callers)))  # all instances are there
        in_turn.clear()
        loop.call_soon(next_turn)
        await asyncio.gather(*(caller() for _ in range(callers)))
        over = True
    assert sum(in_turn.values()) == 3 * callers
    assert max(in_turn.values()) <= callers / 4


def rounds_of_a_millisecond() -> int:
    """Rounds of a guest's loop, by what they take here."""
    import wasmtime

    store = wasmtime.Store()
    text = GUEST.format(imports="", request="", body=spin(3_000_000), answer=0)
    entry = wasmtime.Instance(store, wasmtime.Module(store.engine, text), []).exports(store)["handle_request"]
    assert isinstance(entry, wasmtime.Func)
    spent = []
    for _ in range(3):
        began = time.thread_time()
        entry(store, 0, 0, 0, 0)
        spent.append(time.thread_time() - began)
    return int(3_000 / min(spent))
