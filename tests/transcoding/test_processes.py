"""The codec processes: what they do is what a codec does, within a deadline, a memory and a share."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress

import msgspec
import psutil
import pytest

from insula.errors import CallerError, Code, DeadlineError, GuestError, InsulaError, LimitError, UnavailableError
from insula.schema.bounds import DEFAULT_BOUNDS, Bounds
from insula.schema.json_codec import compile_all
from insula.transcoding import frames
from insula.transcoding import process as module
from insula.transcoding.frames import Work
from insula.transcoding.process import Subject
from insula.transcoding.processes import CodecProcesses
from tests.scarce import refuse_threads
from tests.transcoding.conftest import SCHEMA, soon

TABLE = b'{"rows":[],"names":["a","b"]}'
#: Binary of 60,000 empty rows: seconds of work for one byte each.
SLOW = b"\x0a\x00" * 60_000
HUGE = b'{"rows":[' + b",".join([b"{}"] * 20_000) + b"]}"


def subject(service: str = "a.A.v1", key: str = "1", bounds: Bounds = DEFAULT_BOUNDS) -> Subject:
    return Subject(service, key, SCHEMA, bounds)


def children() -> list[psutil.Process]:
    found = []
    for each in psutil.Process().children():
        with suppress(psutil.Error):  # it is ending
            if "insula.transcoding.child" in each.cmdline():
                found.append(each)
    return found


async def test_a_process_does_what_a_codec_does(processes: CodecProcesses) -> None:
    codec = compile_all(SCHEMA)["echo"]
    text = b'{"rows":[{}],"note":"' + b"x" * 200_000 + b'","times":["2026-05-29T08:35:13.70Z"]}'
    own = subject()
    assert await processes.submit(own, "echo", Work.READ_JSON, text, soon()) == codec.read_input(text)
    assert await processes.submit(own, "echo", Work.WRITE_JSON, text, soon()) == codec.write_output(text)
    binary = await processes.submit(own, "echo", Work.WRITE_BINARY, TABLE, soon())
    assert await processes.submit(own, "echo", Work.READ_BINARY, binary, soon()) == TABLE
    for work, kind in ((Work.READ_JSON, CallerError), (Work.WRITE_JSON, GuestError), (Work.READ_BINARY, CallerError)):
        with pytest.raises(kind) as refused:
            await processes.submit(own, "echo", work, b'{"rows":[1]}', soon())
        assert refused.value.code is (Code.INTERNAL if kind is GuestError else Code.INVALID_ARGUMENT)
    with pytest.raises(CallerError) as wrong:
        await processes.submit(own, "echo", Work.READ_JSON, b'{"rows":[1]}', soon())
    assert "$.rows[0]" in wrong.value.message
    assert wrong.value.hint == "Table.rows is declared [Row]!"
    with pytest.raises(LimitError) as limited:
        await processes.submit(own, "echo", Work.READ_JSON, HUGE, soon())
    assert (limited.value.http_status, limited.value.reason) == (413, "body_bytes")


async def test_a_job_ends_at_the_deadline_of_its_call_and_the_next_is_done(processes: CodecProcesses) -> None:
    own = subject()
    await processes.submit(own, "echo", Work.READ_BINARY, b"", soon())
    [first] = children()
    began = time.monotonic()
    with pytest.raises(DeadlineError):
        await processes.submit(own, "echo", Work.READ_BINARY, SLOW, soon(0.2))
    assert time.monotonic() - began < 2.0
    assert await processes.submit(own, "echo", Work.READ_JSON, TABLE, soon()) == TABLE
    assert first.pid not in {each.pid for each in children()}
    with pytest.raises(DeadlineError):
        processes.submit(own, "echo", Work.READ_JSON, TABLE, soon(0.0))


async def test_a_job_that_is_a_little_late_costs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insula.transcoding.processes.GRACE", 60.0)
    processes = CodecProcesses(at_once=1)
    try:
        assert await processes.submit(subject(), "echo", Work.READ_JSON, TABLE, soon()) == TABLE
        [first] = children()
        for _ in range(3):
            late = processes.submit(subject(), "echo", Work.READ_BINARY, SLOW[:8_000], soon(0.005))
            after = processes.submit(subject("b.B.v1", "2"), "echo", Work.READ_JSON, TABLE, soon())
            with pytest.raises(DeadlineError):
                await late
            assert await after == TABLE
        assert [each.pid for each in children()] == [first.pid]
    finally:
        await processes.close()


async def test_a_deadline_shorter_than_a_start_does_not_end_the_process_that_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kills: list[module.Process] = []
    monkeypatch.setattr(module.Process, "kill", lambda process: kills.append(process))
    monkeypatch.setattr("insula.transcoding.processes.GRACE", 0.001)
    processes = CodecProcesses(at_once=1)
    try:
        with pytest.raises(DeadlineError):
            await processes.submit(subject(), "echo", Work.READ_JSON, TABLE, soon(0.005))
        assert await processes.submit(subject(), "echo", Work.READ_JSON, TABLE, soon()) == TABLE
        assert kills == []
        assert len(children()) == 1
    finally:
        await processes.close()


async def test_one_service_has_one_of_two_processes_and_services_take_turns(processes: CodecProcesses) -> None:
    slow = [processes.submit(subject("a.A.v1"), "echo", Work.READ_BINARY, SLOW, soon(60)) for _ in range(4)]
    other = subject("b.B.v1", "2")
    for _ in range(3):
        assert await processes.submit(other, "echo", Work.READ_JSON, TABLE, soon()) == TABLE
    assert processes.waiting == 3
    assert not any(job.done() for job in slow)
    for job in slow:
        job.cancel()
    await asyncio.sleep(0)
    assert processes.waiting == 0


async def test_who_has_its_share_of_the_queue_is_refused_and_another_is_not() -> None:
    processes = CodecProcesses(at_once=1, queue=100_000)
    try:
        body = TABLE + b" " * 20_000
        jobs = [processes.submit(subject(), "echo", Work.READ_JSON, body, soon()) for _ in range(2)]
        with pytest.raises(LimitError) as refused:
            processes.submit(subject(), "echo", Work.READ_JSON, body, soon())
        assert (refused.value.reason, "limits.held_mb" in refused.value.message) == ("codec_queue", True)
        jobs.append(processes.submit(subject("b.B.v1", "2"), "echo", Work.READ_JSON, body, soon()))
        assert await asyncio.gather(*jobs) == [TABLE] * 3
        # a body of any size finds room where nothing waits
        large = TABLE + b" " * 1_000_000
        assert await processes.submit(subject(), "echo", Work.READ_JSON, large, soon()) == TABLE
        for _ in range(3):  # what was taken was given back, whatever came of it
            taken = processes.submit(subject(), "echo", Work.READ_JSON, large, soon())
            taken.cancel()
            assert await processes.submit(subject("b.B.v1", "2"), "echo", Work.READ_JSON, body, soon()) == TABLE
    finally:
        await processes.close()


async def test_memory_that_does_not_suffice_is_a_limit() -> None:
    processes = CodecProcesses(at_once=1, memory=160 << 20)
    try:
        wide = subject(bounds=Bounds(input_bytes=1 << 30))
        with pytest.raises(LimitError) as refused:
            await processes.submit(wide, "echo", Work.READ_JSON, HUGE, soon())
        assert refused.value.reason == "codec_memory"
        assert "limits.codec_memory_mb" in refused.value.message
        assert await processes.submit(wide, "echo", Work.READ_JSON, TABLE, soon()) == TABLE
    finally:
        await processes.close()


async def test_an_answer_that_takes_too_much_memory_is_the_services() -> None:
    processes = CodecProcesses(at_once=1, memory=160 << 20)
    try:
        wide = subject(bounds=Bounds(output_bytes=1 << 30))
        for work in (Work.WRITE_JSON, Work.WRITE_BINARY):
            with pytest.raises(LimitError, match="the service's answer takes more memory") as refused:
                await processes.submit(wide, "echo", work, HUGE, soon())
            assert refused.value.reason == "codec_memory"
            assert "send less" not in (refused.value.hint or "")
    finally:
        await processes.close()


async def test_a_process_that_died_while_it_was_idle_costs_nobody_a_call(
    processes: CodecProcesses, caplog: pytest.LogCaptureFixture
) -> None:
    own = subject()
    for _ in range(3):
        assert await processes.submit(own, "echo", Work.READ_JSON, TABLE, soon()) == TABLE
        [child] = children()
        await gone(child)
    assert await processes.submit(own, "echo", Work.READ_JSON, TABLE, soon()) == TABLE
    assert caplog.text.count("was ended by SIGKILL (the kernel does that for want of memory") == 3
    assert "while it was idle" in caplog.text


async def gone(child: psutil.Process) -> None:
    """Kills a process and waits for its end, which stays for the server to find."""
    child.kill()
    await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


async def killed(count: int, after: float, job: asyncio.Future[bytes]) -> None:
    """Kills so many processes while they work on the job, which is when they have had so much time (s) of a processor."""
    seen = set[int]()
    while len(seen) < count and not job.done():
        for child in children():
            with suppress(psutil.Error):
                if child.pid not in seen and sum(child.cpu_times()[:2]) > after:
                    child.kill()
                    seen.add(child.pid)
        await asyncio.sleep(0.01)


async def test_a_job_whose_process_dies_is_done_again_once(
    processes: CodecProcesses, caplog: pytest.LogCaptureFixture
) -> None:
    own = subject(bounds=Bounds(input_bytes=1 << 30))
    await processes.submit(own, "echo", Work.READ_BINARY, b"", soon())
    [child] = children()
    working = sum(child.cpu_times()[:2]) + 0.3
    job = processes.submit(own, "echo", Work.READ_BINARY, SLOW[:8_000], soon(120))
    await killed(1, working, job)
    assert (await job).startswith(b'{"rows":[{"field_0":""')
    assert "a.A.v1/echo" in caplog.text
    caplog.clear()
    job = processes.submit(own, "echo", Work.READ_BINARY, SLOW, soon(120))
    await killed(2, working, job)
    with pytest.raises(InsulaError) as failed:
        await job
    assert (failed.value.code, failed.value.message) == (Code.INTERNAL, "internal error")
    assert caplog.text.count("a.A.v1/echo") == 2
    assert await processes.submit(own, "echo", Work.READ_JSON, TABLE, soon()) == TABLE


async def test_a_thread_that_the_system_refuses_takes_nothing_away(
    processes: CodecProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    owns = [subject(f"{name}.A.v1", name) for name in "abcd"]
    with refuse_threads(monkeypatch):
        for own in owns:
            with pytest.raises(UnavailableError, match="starts no more threads"):
                await processes.submit(own, "echo", Work.READ_JSON, TABLE, soon())
    for own in owns:
        assert await processes.submit(own, "echo", Work.READ_JSON, TABLE, soon()) == TABLE


async def test_a_process_that_the_system_refuses_is_a_refusal_that_leaves_nothing(
    processes: CodecProcesses, caplog: pytest.LogCaptureFixture
) -> None:
    own = subject()
    with pytest.raises(LimitError):
        await processes.submit(own, "echo", Work.READ_JSON, HUGE, soon())  # the thread is there
    [child] = children()
    await gone(child)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    caplog.clear()
    spare = os.open(os.devnull, os.O_RDONLY)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 2, hard))  # no room for a second pipe
    try:
        for _ in range(5):
            with pytest.raises(UnavailableError, match="too many open files") as refused:
                await processes.submit(own, "echo", Work.READ_JSON, TABLE, soon())
            assert "ulimit -n" in (refused.value.hint or "")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caplog.text.count("cannot be started") == 1
    assert "Traceback" not in caplog.text
    again = os.open(os.devnull, os.O_RDONLY)
    os.close(again)
    assert again <= spare, "no descriptor is left behind"
    assert await processes.submit(own, "echo", Work.READ_JSON, TABLE, soon()) == TABLE


async def test_a_program_that_was_changed_below_the_server_is_told(
    processes: CodecProcesses, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "fingerprint", lambda: bytes(frames.FINGERPRINT))
        for _ in range(3):
            with pytest.raises(UnavailableError) as refused:
                await processes.submit(subject(), "echo", Work.READ_JSON, TABLE, soon())
    assert "restart the server" in (refused.value.hint or "")
    assert caplog.text.count("restart the server") == 1
    assert children() == []
    assert await processes.submit(subject(), "echo", Work.READ_JSON, TABLE, soon()) == TABLE


def test_the_fingerprint_is_of_all_that_goes_through_the_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = frames.fingerprint.__wrapped__
    before = made()
    assert before == made() == frames.fingerprint()
    for name in ("Job", "Answer", "Schema"):
        was = getattr(frames, name)
        wider = msgspec.defstruct(name, [("version", int)], bases=(was,), kw_only=True, array_like=True, frozen=True)
        with monkeypatch.context() as patch:
            patch.setattr(frames, name, wider)
            assert made() != before
    monkeypatch.setattr("insula.__version__", "99")
    assert made() != before


async def test_a_process_that_cannot_begin_is_a_refusal(
    processes: CodecProcesses, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for program, told in (("/bin/false", "ended with status 1 before its first job"), ("/none", "cannot be started")):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", program)
            with pytest.raises(UnavailableError, match="cannot start a process for large bodies"):
                await processes.submit(subject(), "echo", Work.READ_JSON, TABLE, soon())
        assert told in caplog.text
    assert await processes.submit(subject(), "echo", Work.READ_JSON, TABLE, soon()) == TABLE


async def test_a_process_with_too_little_memory_for_the_job_itself_says_so() -> None:
    processes = CodecProcesses(at_once=1, memory=160 << 20)
    try:
        large = TABLE + b" " * (200 << 20)
        for work, whose in ((Work.READ_JSON, "the body"), (Work.WRITE_JSON, "the service's answer")):
            with pytest.raises(LimitError, match=f"{whose} takes more memory"):
                await processes.submit(subject(), "echo", work, large, soon())
    finally:
        await processes.close()


async def test_a_process_has_no_secrets_and_no_files_of_the_server(
    processes: CodecProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSULA_ADMIN__TOKEN", "s3cret")
    await processes.submit(subject(), "echo", Work.READ_JSON, TABLE, soon())
    [child] = children()
    assert set(child.environ()) <= {"MALLOC_ARENA_MAX", "LC_ALL"}
    assert len(os.listdir(f"/proc/{child.pid}/fd")) == 3


async def test_a_process_that_has_loaded_many_schemas_is_replaced(
    processes: CodecProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SCHEMAS", 2)
    seen = set()
    for key in ("1", "2", "1", "3", "3"):
        assert await processes.submit(subject(key=key), "echo", Work.READ_JSON, TABLE, soon()) == TABLE
        seen.add(children()[0].pid)
    assert len(seen) == 2


async def test_nothing_is_left_at_the_end() -> None:
    processes = CodecProcesses()
    jobs = [processes.submit(subject(), "echo", Work.READ_BINARY, SLOW, soon()) for _ in range(3)]
    await processes.submit(subject("b.B.v1", "2"), "echo", Work.READ_JSON, TABLE, soon())
    await processes.close()
    for job in jobs:
        with pytest.raises(InsulaError):
            await job
    with pytest.raises(UnavailableError):
        processes.submit(subject(), "echo", Work.READ_JSON, TABLE, soon())
    assert children() == []
    await processes.close()


def test_a_process_ends_when_the_server_does() -> None:
    command = [sys.executable, "-I", "-m", "insula.transcoding.child", str(512 << 20)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=30) == 0
