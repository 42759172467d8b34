"""`insula call`: what goes out, what comes back, and the exit code of each error."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Ended, Running

Run = Callable[..., Ended]


def test_a_call_is_a_connect_call(insula: Run, running: Running) -> None:
    done = insula("call", "shop.Orders/place", '{"item":"büch"}', "-H", "Accept-Language: de", "--timeout", "2.5")
    assert (done.code, done.out) == (0, '{"item":"büch"}\n')
    (seen,) = running.seen
    assert seen["path"] == "/shop.Orders/place"
    assert seen["headers"]["content-type"] == "application/json"
    assert seen["headers"]["connect-protocol-version"] == "1"
    assert seen["headers"]["connect-timeout-ms"] == "2500"
    assert seen["headers"]["accept-language"] == "de"
    assert "authorization" not in seen["headers"]


def test_the_input_comes_from_where_it_is_said(
    insula: Run, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.json").write_text('{"a":1}')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"b":2}')))
    assert insula("call", "shop.Orders.v1/place").code == 0
    assert insula("call", "/shop.Orders/place", "@in.json").code == 0
    assert insula("call", "shop.Orders/place", "-d", "-").code == 0
    assert [one["body"] for one in running.seen] == [b"{}", b'{"a":1}', b'{"b":2}']


def test_an_error_has_the_exit_code_of_its_code_and_cannot_touch_the_terminal(insula: Run) -> None:
    done = insula("call", "shop.Orders/fail")
    assert done.code == 25
    assert done.err == "error: not_found: no such order\\x1b[2J [shop.X]\n"
    assert insula("call", "shop.Orders/fail", "--json").json()["code"] == "not_found"


def test_no_server_no_connect_and_no_answer_are_told_apart(insula: Run) -> None:
    assert insula("call", "shop.Orders/place", "--url", "http://127.0.0.1:1").code == 3
    assert insula("call", "shop.Orders/html").code == 3


@pytest.mark.parametrize(
    "words",
    [
        ("shop/place",),
        ("shop.Orders",),
        ("shop.Orders/place", "{}", "-d", "{}"),
        ("shop.Orders/place", "@none"),
        ("shop.Orders/place", "-H", "bad header"),
        ("shop.Orders/place", "-H", "a: b\r\nc: d"),
        ("shop.Orders/place", "--url", "ftp://x"),
    ],
)
def test_a_wrong_command_line_calls_nothing(insula: Run, running: Running, words: tuple[str, ...]) -> None:
    done = insula("call", *words)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert running.seen == []
