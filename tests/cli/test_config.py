"""`insula config`: what is in force and where it comes from, without a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from insula.settings.reference import reference
from tests.cli.conftest import Ended

Run = Callable[..., Ended]


def test_what_is_set_is_shown_with_its_source_and_secrets_are_hidden(
    insula: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSULA_ADMIN__TOKEN", "hunter2")
    (tmp_path / "insula.toml").write_text("[server]\nport = 9\n[secrets.'shop.Orders']\nKEY = 'hunter2'")
    done = insula("config", "show")
    rows = [line.split() for line in done.out.splitlines()]
    assert ["server.port", "9", "insula.toml"] in rows
    assert ["admin.token", "(hidden)", "environment"] in rows
    assert ["secrets.shop.Orders.KEY", "(hidden)", "insula.toml"] in rows
    assert not any(row[0] == "limits.body_bytes" for row in rows)
    everything = insula("config", "show", "--all", "--json")
    assert {"key": "limits.body_bytes", "value": "4194304", "from": "default"} in everything.json()["settings"]
    assert "hunter2" not in done.out + everything.out


def test_the_reference_is_printed_or_written(insula: Run, tmp_path: Path) -> None:
    assert insula("config", "docs").out == reference()
    assert insula("config", "docs", "--write", "c.md").code == 0
    assert (tmp_path / "c.md").read_text() == reference()
