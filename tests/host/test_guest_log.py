from __future__ import annotations

import gc
import logging
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.calls import ServiceId
from insula.host.guest_log import BURST, MAX_TEXT, RATE, GuestLog, GuestLogs, plain
from insula.host.log import LogCapability
from insula.host.output import line_writer
from tests.host.conftest import ID, Host, scope

NAME = "insula.guest.shop.Orders.v1"


class Now:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "insula.guest")


class TestPlain:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("a plain line, with ümlauts and 漢字", "a plain line, with ümlauts and 漢字"),
            ("two\r\nlines\tand", "two\\r\\nlines\\tand"),
            ("\x1b[2J\x00\x7f\x9b", "\\x1b[2J\\x00\\x7f\\x9b"),
            ("a\u202eb\u2028c\ufeff", "a\\u202eb\\u2028c\\ufeff"),
        ],
    )
    def test_escapes(self, text: str, line: str) -> None:
        assert plain(text) == line

    def test_cut(self) -> None:
        assert plain("x" * (MAX_TEXT + 3)) == "x" * MAX_TEXT + " … (3 more characters)"

    @given(st.text(max_size=100))
    def test_nothing_that_moves_a_cursor_is_left(self, text: str) -> None:
        line = plain(text)
        assert len(line.splitlines()) <= 1
        assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in line)


class TestLimit:
    def test_burst_then_rate_and_what_was_dropped_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        now = Now()
        log = GuestLog(ID, now=now)
        for number in range(int(BURST) + 50):
            log.write(logging.INFO, f"line {number}")
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == BURST + 1
        assert "lines are dropped" in messages[-1], "it is said at once"
        assert log.dropped == 50
        now.at = 1.0
        for number in range(int(RATE) + 1):
            log.write(logging.INFO, f"again {number}")
        messages = [record.getMessage() for record in caplog.records][int(BURST) + 1 :]
        assert messages[0] == "50 lines of this service were dropped"
        assert messages[1] == "again 0"
        assert len(messages) == 1 + RATE + 1
        assert log.dropped == 51

    def test_one_log_a_service_while_somebody_has_it(self) -> None:
        logs = GuestLogs()
        first = logs.of(ID)
        assert logs.of(ID) is first
        first.dropped = 7
        assert logs.dropped(ID) == 7
        del first
        gc.collect()
        assert logs.dropped(ID) == 0

    def test_what_was_dropped_is_told_while_services_come_and_go(self) -> None:
        """A thread reads, as the metrics page does, while the loop deploys."""
        logs, done, failures = GuestLogs(), threading.Event(), []
        before = sys.getswitchinterval()

        def read() -> None:
            try:
                for _ in range(5_000):
                    logs.dropped(ID)
            except BaseException as error:
                failures.append(error)
            finally:
                done.set()

        thread = threading.Thread(target=read)
        sys.setswitchinterval(1e-6)
        try:
            thread.start()
            while not done.is_set():
                assert len([logs.of(ServiceId("shop", f"S{number}", "v1")) for number in range(200)]) == 200
        finally:
            sys.setswitchinterval(before)
            thread.join()
        assert not failures


class TestCapability:
    @pytest.fixture
    def host(self) -> Host:
        return Host(LogCapability(GuestLogs()), of=scope(request_id="r-1"))

    @pytest.mark.parametrize(("level", "expected"), [("debug", 10), ("info", 20), ("warn", 30), ("error", 40)])
    async def test_levels(self, host: Host, level: str, expected: int, caplog: pytest.LogCaptureFixture) -> None:
        assert await host.ask("okra.log", "write", {"level": level, "message": "sold %s"}) is None
        assert caplog.record_tuples == [(NAME, expected, "sold %s")]
        assert caplog.records[0].request_id == "r-1"  # type: ignore[attr-defined]
        assert caplog.records[0].service == "shop.Orders.v1"  # type: ignore[attr-defined]

    async def test_context(self, host: Host, caplog: pytest.LogCaptureFixture) -> None:
        parameters = {
            "level": "info",
            "message": "sold",
            "context": {"id": "a\nb"},
            "timestamp": "2001-01-01T00:00:00Z",
        }
        await host.ask("okra.log", "write", parameters)
        assert caplog.messages == ['sold {"id": "a\\nb"}']

    @pytest.mark.parametrize(
        "parameters", [{}, {"level": "info"}, {"level": "loud", "message": "x"}, {"level": "info", "message": 1}]
    )
    async def test_refused(self, host: Host, parameters: object) -> None:
        assert await host.ask("okra.log", "write", parameters) == "INVALID_PARAMETERS"


def test_output_lines(caplog: pytest.LogCaptureFixture) -> None:
    write = line_writer(GuestLog(ID))
    write(1, b"out \xff")
    write(2, b"err\x07")
    assert caplog.record_tuples == [(NAME, logging.INFO, "out \\xff"), (NAME, logging.WARNING, "err\\x07")]
