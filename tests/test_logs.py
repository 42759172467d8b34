"""The log: bounded, never blocking, one line a record, and safe against what guests write."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.errors import ConfigurationError
from insula.logs import MAX_LINE, Logs, _Enqueue, escaped
from insula.settings import LoggingSettings

log = logging.getLogger("insula.test")


def test_text_has_time_level_logger_message_and_fields() -> None:
    stream = io.StringIO()
    with Logs(LoggingSettings(), stream=stream):
        log.info("deployed %s", "shop.Orders.v1", extra={"request_id": "abc"})
        log.debug("not written")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("Z info    insula.test: deployed shop.Orders.v1 request_id=abc")


def test_json_is_one_object_a_line() -> None:
    stream = io.StringIO()
    with Logs(LoggingSettings(format="json"), stream=stream):
        try:
            raise ValueError("broken\nline")
        except ValueError:
            log.exception("it failed", extra={"service": "shop.Orders.v1"})
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found["message"] == "it failed"
    assert found["service"] == "shop.Orders.v1"
    assert found["level"] == "error"
    assert "ValueError" in found["exception"]


def test_a_guest_cannot_forge_a_line_or_move_the_cursor() -> None:
    stream = io.StringIO()
    with Logs(LoggingSettings(), stream=stream):
        log.info("%s", "hello\n2025-01-01T00:00:00.000Z info insula.admin: all is well\x1b[2J\u202e")
        try:
            raise ValueError("x\n2025-01-01T00:00:00.000Z forged\r\x1b[0m")
        except ValueError:
            log.exception("trap")
    lines = stream.getvalue().split("\n")
    assert "hello\\n2025" in lines[0]
    assert "\\x1b[2J\\u202e" in lines[0]
    assert "\x1b" not in stream.getvalue()
    assert not any(line.startswith("2025-01-01") for line in lines)


def test_a_long_record_is_cut() -> None:
    stream = io.StringIO()
    with Logs(LoggingSettings(), stream=stream):
        log.info("x" * (MAX_LINE + 500))
    assert "(500 more characters)" in stream.getvalue()
    assert len(stream.getvalue()) < MAX_LINE + 200


class Stuck(io.StringIO):
    """A stream that takes nothing until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = threading.Event()
        self.open = threading.Event()

    def write(self, text: str) -> int:
        self.writing.set()
        self.open.wait(10)
        return super().write(text)


async def test_a_stuck_log_drops_and_counts_and_never_blocks() -> None:
    stream = Stuck()
    logs = Logs(LoggingSettings(), stream=stream, size=10).start()
    try:
        log.info("first")
        assert stream.writing.wait(5)
        for number in range(30):
            log.info("line %d", number)
        assert logs.dropped == 20
    finally:
        stream.open.set()
        await asyncio.to_thread(logs.close)
    assert "20 log lines were lost" in stream.getvalue()
    assert "line 9" in stream.getvalue()
    assert "line 10" not in stream.getvalue()


def test_levels_are_set_and_given_back() -> None:
    before = logging.getLogger().level
    stream = io.StringIO()
    with Logs(LoggingSettings(level="warning", levels={"insula.test": "debug"}), stream=stream):
        log.debug("mine")
        logging.getLogger("insula.other").info("not this")
        logging.getLogger("library").info("nor this")
    assert "mine" in stream.getvalue()
    assert " this" not in stream.getvalue()
    assert logging.getLogger().level == before
    assert log.level == logging.NOTSET


def test_a_file_is_appended_to_and_followed_when_it_is_rotated(tmp_path: Path) -> None:
    file = tmp_path / "server.log"
    file.write_text("before\n")
    with Logs(LoggingSettings(file=file)):
        log.info("one")
    with Logs(LoggingSettings(file=file)):
        file.rename(tmp_path / "server.log.1")
        log.info("two")
    assert "before\n" in (tmp_path / "server.log.1").read_text()
    assert "one" in (tmp_path / "server.log.1").read_text()
    assert "two" in file.read_text()


def test_a_file_that_is_gone_for_a_while_is_written_again_once_it_can_be(tmp_path: Path) -> None:
    """The folder is removed, or a folder stands in the file's place: what comes meanwhile is lost, and counted."""
    folder = tmp_path / "logs"
    folder.mkdir()
    file = folder / "server.log"
    with Logs(LoggingSettings(file=file)) as logs:

        def written() -> None:
            while not logs._queue.records.empty() or logs.dropped < lost:
                pass

        for lost in (2, 4):
            file.unlink(missing_ok=True)
            if lost == 2:
                folder.rmdir()
            else:
                file.mkdir()
            log.info("lost")
            log.info("lost")
            written()
            file.rmdir() if lost == 4 else folder.mkdir()
            log.info("there again")
            while "2 log lines were lost" not in (file.read_text() if file.is_file() else ""):
                pass
    text = file.read_text()
    assert "there again" in text
    assert text.count("lines were lost") == 1  # the other report went with its file
    assert logs.dropped == 4


def test_a_file_that_cannot_be_opened_is_the_operators_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"logging\.file"):
        Logs(LoggingSettings(file=tmp_path / "none" / "server.log"))


def test_a_wrong_log_call_is_written_and_raises_nothing() -> None:
    stream = io.StringIO()
    with Logs(LoggingSettings(), stream=stream):
        (handler,) = [one for one in logging.getLogger().handlers if type(one).__module__ == "insula.logs"]
        handler.handle(logging.LogRecord("insula.test", logging.INFO, __file__, 1, "%d", ("x",), None))
    assert "cannot be written" in stream.getvalue()


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    out = escaped(text)
    assert len(out.splitlines()) <= 1
    assert "\x1b" not in out
    out.encode()


def test_one_place_in_the_code_fills_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that traps at every call, a client that makes every request fail: the log says so, not a million times."""
    stream = io.StringIO()
    now = 1_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    with Logs(LoggingSettings(), stream=stream):
        for number in range(2000):
            log.warning("a guest trapped: %d", number)
            now += 0.001
        log.warning("another place")
        now += 60
        for number in range(2):
            (log.warning)("late %d", number)
        for number in range(1000):
            logging.getLogger("insula.guest.shop.Orders.v1").info("%d", number)  # bounded by guest_log
    lines = stream.getvalue().splitlines()
    assert 200 <= sum("a guest trapped" in line for line in lines) <= 260
    assert any("another place" in line for line in lines)
    assert sum("guest.shop" in line for line in lines) == 1000


def test_what_was_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    now = 1_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    with Logs(LoggingSettings(), stream=stream):
        for number in range(302):
            now += 60 if number == 301 else 0
            log.warning("trap %d", number)
    assert stream.getvalue().splitlines()[-1].endswith("trap 301 (101 more like it were left out before)")


def test_what_stands_for_its_lock_is_taken_in_either_way() -> None:
    """logging takes a handler's lock by `acquire` in some versions of Python, and by `with` in others."""
    handler = _Enqueue(1)
    assert handler.lock is not None
    with handler.lock:
        handler.acquire()
        handler.release()
