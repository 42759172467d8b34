"""The commands of deployments, against a real admin port."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import TOKEN, Ended, Running

Run = Callable[..., Ended]
PACKAGE = b"\x1f\x8b" + bytes(600_000)


def test_a_file_is_uploaded_whole_and_its_steps_are_shown(insula: Run, tmp_path: Path) -> None:
    (tmp_path / "Orders-1.0.0.okra.pkg").write_bytes(PACKAGE)
    done = insula("deploy", "Orders-1.0.0.okra.pkg")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "shop.Orders.v1 deployed, version 1.0.0"
    assert f"upload:sha256:{hashlib.sha256(PACKAGE).hexdigest()[:12]}…" in insula("list").out
    for step in ("read", "checked", "compiled  42 ms", "ready"):
        assert step in done.out
    assert "/shop.Orders/place" in done.out
    shown = insula("show", "shop.Orders.v1", "--json").json()
    assert shown["source"] == f"upload:sha256:{hashlib.sha256(PACKAGE).hexdigest()}"


@pytest.mark.parametrize("url", ["file:///srv/a.okra.pkg", "s3://b/a.okra.pkg", "HTTPS://x/a", "depot:sha256:00"])
def test_a_url_is_left_to_the_server(insula: Run, url: str) -> None:
    assert insula("deploy", url, "--json").json()["source"] == url


def test_the_whole_life(insula: Run) -> None:
    assert "no service is deployed" in insula("list").out
    assert insula("list", "--json").json() == {"services": []}
    assert insula("deploy", "file:///one", "--plan").out.startswith("shop.Orders.v1 planned")
    assert insula("list", "--json").json() == {"services": []}
    assert insula("deploy", "file:///one").code == 0
    again = insula("deploy", "file:///two")
    assert (again.code, again.err) == (1, "error: shop.Orders.v1 is deployed already (use override)\n")
    assert insula("deploy", "file:///two", "--override").code == 0
    heading, row = insula("list").out.splitlines()
    assert heading.split() == ["SERVICE", "STATE", "VERSION", "DEPLOYED", "SOURCE"]
    assert row.split() == ["shop.Orders.v1", "ready", "1.0.0", "2026-01-31T12:00:00Z", "file:///two"]
    assert "may use        okra.log" in insula("show", "shop.Orders.v1").out
    assert "/shop.Orders/place  Order -> Receipt" in insula("inspect", "shop.Orders.v1").out
    assert insula("rollback", "shop.Orders.v1", "--plan", "--json").json()["status"] == "planned"
    assert insula("rollback", "shop.Orders.v1", "--json").json()["source"] == "file:///one"
    assert insula("rollback", "shop.Orders.v1").code == 1
    assert insula("undeploy", "shop.Orders.v1").out == "shop.Orders.v1 undeployed\n"
    gone = insula("undeploy", "shop.Orders.v1", "--json")
    assert (gone.code, gone.json()["code"]) == (1, "not_found")


def test_what_is_stopped_is_listed_with_the_reason_and_retried(insula: Run, running: Running) -> None:
    assert insula("deploy", "file:///one").code == 0
    assert insula("retry", "shop.Orders.v1").err == "error: shop.Orders.v1 is not stopped\n"
    running.deployments.stop("shop.Orders.v1", "the process ended 3 times\r\n\x1b[2Jat its start")
    _, row, why = insula("list").out.splitlines()
    assert row.split()[:2] == ["shop.Orders.v1", "stopped"]
    assert why == "shop.Orders.v1 is stopped: the process ended 3 times\\r\\n\\x1b[2Jat its start"
    assert "last error" in insula("show", "shop.Orders.v1").out
    assert insula("retry", "shop.Orders.v1").out.startswith("shop.Orders.v1 started, version 1.0.0\n")
    assert insula("list").out.splitlines()[1].split()[1] == "ready"
    assert insula("retry", "shop.Nothing.v1", "--json").json()["code"] == "not_found"


def test_a_refusal_of_an_upload_is_told(insula: Run, tmp_path: Path) -> None:
    (tmp_path / "a.okra.pkg").write_bytes(b"PK\x03\x04")
    assert insula("deploy", "a.okra.pkg").err.startswith("error: the package is not gzip")
    (tmp_path / "big.okra.pkg").write_bytes(b"\x1f\x8b" + bytes(3 << 20))
    assert "packages.max_bytes" in insula("deploy", "big.okra.pkg").err


def test_what_is_not_there_is_a_wrong_command_line(insula: Run) -> None:
    done = insula("deploy", "none.okra.pkg")
    assert done.code == 2
    assert "there is no file none.okra.pkg" in done.err


def test_a_folder_is_no_package_and_the_one_in_it_is_named(insula: Run, tmp_path: Path) -> None:
    (tmp_path / "orders" / "dist").mkdir(parents=True)
    assert "insula build orders" in insula("deploy", "orders").err
    (tmp_path / "orders" / "dist" / "Orders-1.0.0.okra.pkg").write_bytes(PACKAGE)
    done = insula("deploy", "orders")
    assert done.code == 2
    assert "orders is a folder, not a package" in done.err
    assert "insula deploy orders/dist/Orders-1.0.0.okra.pkg" in done.err


def test_the_token_is_needed_and_may_stand_before_or_after_the_command(
    insula: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INSULA_ADMIN__TOKEN")
    bare = insula("list", "--json")
    assert (bare.code, bare.json()["code"]) == (1, "unauthenticated")
    assert "--token" in bare.err
    assert insula("list", "--token", TOKEN).code == 0
    assert insula("--token", TOKEN, "list").code == 0
    assert insula("list", "--token", "wörld\n").code == 2


def test_a_token_of_a_file_goes_to_the_server_of_that_file_alone(
    insula: Run, running: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("INSULA_ADMIN__TOKEN")
    monkeypatch.delenv("INSULA_ADMIN_URL")
    port = running.admin.rpartition(":")[2]
    (tmp_path / "insula.toml").write_text(f"[server]\nadmin_port = {port}\n[admin]\ntoken = '{TOKEN}'")
    assert insula("list").code == 0
    assert insula("list", "--admin-url", running.admin).code == 1


def test_no_server_and_another_server_are_told_apart(insula: Run, running: Running) -> None:
    nobody = insula("list", "--admin-url", "http://127.0.0.1:1")
    assert nobody.code == 3
    assert "insula serve" in nobody.err
    other = insula("list", "--admin-url", running.public)
    assert other.code == 3 or "services" not in other.out
    assert insula("list", "--admin-url", "127.0.0.1:8081").code == 2


def test_wrong_settings_of_the_folder_are_told(insula: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INSULA_ADMIN_URL")
    (tmp_path / "insula.toml").write_text("[server]\nadmin_prt = 1")
    done = insula("list")
    assert done.code == 2
    assert "server.admin_port" in done.err
