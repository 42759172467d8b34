"""Files written for other servers are read as they are printed; a server starts only on what it can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from insula.errors import ConfigurationError
from insula.settings import Settings, check_startable, load
from insula.settings.startable import NOT_BUILT
from insula.settings.tree import RESERVED_SECTIONS, SECTIONS

OSNOVA = """
[server]
bind_address = "0.0.0.0:8080"
max_clients = 5

[tls]
enabled = true
cert_path = "/etc/osnova/certs/server.crt"
key_path = "/etc/osnova/certs/server.pk8"

[cors]
allowed_origins = [
    "http://localhost:3000",
    "https://app.osnova.io"
]

[auth]
jwt_secret = "your-secret-key-here"  # Use environment variable in production
token_expiry = 86400  # 24 hours

[rate_limit]
requests_per_second = 100
burst_size = 200

[logging]
level = "info"
format = "json"
file = "/var/log/osnova/server.log"
"""

RUNE = """
[server]
port = 3000
apps_dir = "./apps"

[database]
url = "sqlite:./data.db"

[cache]
max_size_mb = 100
default_ttl_secs = 3600

[filesystem]
allowed_paths = ["./uploads", "./temp"]
"""


def read(folder: Path, toml: str, **environ: str) -> Settings:
    (folder / "insula.toml").write_text(toml)
    return load(environ=environ, cwd=folder)


def refusal(settings: Settings) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_startable(settings)
    return str(caught.value)


def test_the_defaults_start(tmp_path: Path) -> None:
    check_startable(load(environ={}, cwd=tmp_path))


def test_osnovas_file_is_read_and_refused_for_its_sample_secret_and_missing_certificate(tmp_path: Path) -> None:
    settings = read(tmp_path, OSNOVA)
    assert (settings.server.host, settings.server.port, settings.server.max_clients) == ("0.0.0.0", 8080, 5)
    assert settings.cors.allowed_origins == ("http://localhost:3000", "https://app.osnova.io")
    assert (settings.auth.token_expiry, settings.rate_limit.burst_size) == (86400, 200)
    assert settings.logging.file == Path("/var/log/osnova/server.log")
    message = refusal(settings)
    assert "jwt_secret_file = " in message
    assert "cert_path = " in message
    assert "your-secret-key-here" not in message


def test_runes_file_is_read(tmp_path: Path) -> None:
    settings = read(tmp_path, RUNE)
    assert (settings.server.port, settings.server.apps_dir) == (3000, tmp_path / "apps")
    assert settings.filesystem.allowed_paths == (tmp_path / "uploads", tmp_path / "temp")
    assert (settings.cache.max_size_mb, settings.cache.default_ttl_secs) == (100, 3600)


@pytest.mark.parametrize("section", [*RESERVED_SECTIONS, *(name for name in SECTIONS if name in NOT_BUILT)])
def test_a_section_that_is_not_built_is_refused_by_name_even_when_empty(tmp_path: Path, section: str) -> None:
    settings = read(tmp_path, f"[{section}]\n")
    if section == "tls":
        check_startable(settings)  # it is off, which is what this server does
        return
    assert f"[{section}]" in refusal(settings)


def test_secrets_of_services_are_refused_as_well(tmp_path: Path) -> None:
    assert "[secrets]" in refusal(read(tmp_path, "[secrets.'shop.Orders']\nAPI_KEY = 'x'\n"))


def test_a_certificate_is_a_wish_for_tls(tmp_path: Path) -> None:
    assert "[tls]" in refusal(read(tmp_path, "[tls]\ncert_path = 'server.crt'"))
    check_startable(read(tmp_path, "[tls]\nenabled = false\ncert_path = 'server.crt'"))


def test_a_reserved_section_may_hold_anything_and_is_refused_at_start(tmp_path: Path) -> None:
    assert "insula.toml" in refusal(read(tmp_path, "[hub]\nretained = true\n[hub.topics]\na = 1"))


def test_a_profile_whose_feature_is_not_built_is_refused(tmp_path: Path) -> None:
    message = refusal(load(flags={"server.profile": "rune"}, environ={}, cwd=tmp_path))
    assert "--profile" in message


@pytest.mark.parametrize(
    ("storage", "database"),
    [
        ("", "sqlite:insula-data/insula.db"),
        ("sqlite:./a.db", "sqlite:///a.db"),
        ("postgres://a:b@localhost/x", "postgresql+psycopg://c:d@127.0.0.1:5432/x?connect_timeout=1"),
    ],
)
def test_one_database_for_both_is_refused(
    tmp_path: Path, storage: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(read(tmp_path, f"[storage]\nurl = '{storage}'\n[database]\nurl = '{database}'"))
    assert "`database.url` is the database of [storage]" in message
    assert "a:b" not in message


def test_one_number_for_both_ports_is_refused(tmp_path: Path) -> None:
    settings = load(flags={"server.port": 8081}, environ={}, cwd=tmp_path)
    with pytest.raises(ConfigurationError, match="the public and the admin port are both 8081"):
        check_startable(settings)
    check_startable(load(flags={"server.port": 0, "server.admin_port": 0}, environ={}, cwd=tmp_path))


def test_an_open_admin_port_needs_a_token(tmp_path: Path) -> None:
    settings = load(flags={"server.admin_host": "0.0.0.0"}, environ={}, cwd=tmp_path)
    assert "INSULA_ADMIN__TOKEN" in refusal(settings)
    check_startable(
        load(flags={"server.admin_host": "0.0.0.0"}, environ={"INSULA_ADMIN__TOKEN": "r4nd0m"}, cwd=tmp_path)
    )
    assert "sample" in refusal(load(environ={"INSULA_ADMIN__TOKEN": "changeme"}, cwd=tmp_path))
    for token in ("clé", "two words", " a-space-before", "a\ttab"):  # a client could never send it
        told = refusal(load(flags={"admin.token": token}, environ={}, cwd=tmp_path))
        assert "no client can send" in told
        assert token not in told
