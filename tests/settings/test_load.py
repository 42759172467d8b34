"""One tree from five sources: what wins, what is refused, and that no message holds a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.errors import ConfigurationError
from insula.packages.deployable import LIMIT_BOUNDS, ServiceLimits
from insula.settings import Secret, Settings, load
from insula.settings.layers import dotenv_layer
from insula.settings.load import real_keys
from insula.settings.sections import ServiceLimitSettings
from insula.settings.words import meta, shown


def written(folder: Path, toml: str = "", *, env: str | None = None) -> Path:
    if toml:
        (folder / "insula.toml").write_text(toml)
    if env is not None:
        (folder / ".env").write_text(env)
    return folder


def read(folder: Path, flags: dict[str, Any] | None = None, **environ: str) -> Settings:
    return load(flags=flags, environ=environ, cwd=folder)


def refusal(folder: Path, toml: str = "", flags: dict[str, Any] | None = None, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(written(folder, toml), flags, **environ)
    return str(caught.value)


def test_nothing_set_is_the_defaults_with_the_data_folder_in_the_working_directory(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert (settings.server.host, settings.server.port, settings.server.admin_port) == ("127.0.0.1", 8080, 8081)
    assert settings.server.data_dir == tmp_path / "insula-data"
    assert settings.storage_url == f"sqlite:///{tmp_path}/insula-data/insula.db"
    assert settings.admin_token is None
    assert settings.origins == {}


def test_each_source_gives_way_to_the_one_above(tmp_path: Path) -> None:
    written(tmp_path, "[server]\nport = 1\nadmin_port = 1\nhost = 'a'\nadmin_host = 'a'", env="INSULA_SERVER__PORT=2")
    settings = read(tmp_path)
    assert (settings.server.port, settings.origins["server.port"]) == (2, ".env")
    assert read(tmp_path, INSULA_SERVER__PORT="3").server.port == 3
    settings = read(tmp_path, {"server.port": 4, "server.host": None}, INSULA_SERVER__PORT="3")
    assert (settings.server.port, settings.server.admin_port, settings.server.host) == (4, 1, "a")
    assert settings.origins == {
        "server.port": "flags",
        "server.admin_port": "insula.toml",
        "server.host": "insula.toml",
        "server.admin_host": "insula.toml",
    }


def test_a_misspelt_key_names_itself_and_the_nearest_and_no_value(tmp_path: Path) -> None:
    message = refusal(tmp_path, "[rate_limit]\nrequests_per_minut = 987654")
    assert "`rate_limit.requests_per_minut`" in message
    assert "`rate_limit.requests_per_second`" in message
    assert "insula.toml" in message
    assert "987654" not in message
    message = refusal(tmp_path, "[server]\n", None, INSULA_ADMIN__TOKN="hunter2")
    assert "INSULA_ADMIN__TOKN" in message
    assert "INSULA_ADMIN__TOKEN" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("prot = 8080", "`prot`"),
        ("[servr]\nport = 1", "`server.port`"),
        ("[servr]\n", "`server`"),
        ("server = 3", "must be a table"),
        ("[limits]\nbody_bytes = 'huge'", "`limits.body_bytes` in insula.toml must be a whole number from 1024"),
        ("[limits]\nbody_bytes = 3", "from 1024"),
        ("[limits]\nbody_bytes = 1.5", "a whole number"),
        ("[server]\nport = true", "from 0 to 65535"),
        ("[server]\nport = '8080'", "a whole number"),
        ("[server]\nhost = 3", "a text of 1 to 255"),
        ("[server]\nbind_address = 'a:99999'", "an address with a port"),
        ("[server]\nbind_address = 'a:1'\nport = 2", "twice"),
        ("[logging]\nlevel = 'loud'", "one of debug, info"),
        ("[logging.levels]\n'insula.edge' = 'loud'", "`logging.levels`"),
        ("[grants]\nallow = {orders = ['okra.env']}", "does not name a service"),
        ("[env.shop]\nREGION = 'x'", "does not name a service"),
        ("[env.'shop.Orders']\nREGION = 3", "`env.shop.Orders.REGION`"),
        ("[env]\nREGION = 'x'", "must be a table"),
        ("[storage]\nurl = 'mysql://hunter2@x'", "sqlite: or postgres:"),
        ("[server]\ndata_dir = ''", "a path"),
        ("[server\nport = 1", "not valid TOML at line 1"),
        ("[admin]\ntoken = 'hunter2'\ntoken_file = '/x'", "twice"),
        ("[admin]\ntoken_file = 'none'", "`admin.token_file` cannot be read"),
        ("[admin]\ntoken = 3", "`admin.token`"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_key(tmp_path: Path, toml: str, says: str) -> None:
    message = refusal(tmp_path, toml)
    assert says in message
    assert "hunter2" not in message
    assert "loud" not in message


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "[server]\nport = 'x'\n[limits]\nbody_bytes = 1")
    assert "server.port" in message
    assert "limits.body_bytes" in message


def test_a_bind_address_is_host_and_port_and_gives_way_like_them(tmp_path: Path) -> None:
    written(tmp_path, "[server]\nbind_address = '[::]:9000'")
    assert (read(tmp_path).server.host, read(tmp_path).server.port) == ("::", 9000)
    settings = read(tmp_path, {"server.port": 9001})
    assert (settings.server.host, settings.server.port) == ("::", 9001)
    assert read(tmp_path, INSULA_SERVER__BIND_ADDRESS="0.0.0.0").server.host == "0.0.0.0"
    assert read(tmp_path, INSULA_SERVER__BIND_ADDRESS="0.0.0.0:80").server.port == 80


def test_the_environment_is_text_made_into_types(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        INSULA_SOURCES__ROOTS="a, /b",
        INSULA_SOURCES__ALLOW_PRIVATE="true",
        INSULA_GRANTS__DEFAULT='["okra.log"]',
        INSULA_GRANTS__ALLOW='{"shop.Orders": ["okra.env"]}',
        INSULA_ENV='{"shop.Orders": {"REGION": "eu"}}',
        INSULA_LIMITS__BODY_BYTES="",
        DATABASE_URL="postgres://u:p@db/x",
        INSULA_HOME="/not/ours",
        INSULA_SERVER_PORT="tcp://10.0.0.1:8080",
    )
    assert settings.sources.roots == (tmp_path / "a", Path("/b"))
    assert settings.sources.allow_private is True
    assert settings.grants.default == ("okra.log",)
    assert settings.grants.allow == {"shop.Orders": ("okra.env",)}
    assert settings.env == {"shop.Orders": {"REGION": "eu"}}
    assert settings.storage_url == "postgres://u:p@db/x"
    for name, value in (("INSULA_GRANTS__ALLOW", "{x"), ("INSULA_ENV", "[]"), ("INSULA_SOURCES__ALLOW_PRIVATE", "ja")):
        assert name in refusal(tmp_path, "", None, **{name: value})


def test_a_setting_with_one_underscore_is_refused_and_not_ignored(tmp_path: Path) -> None:
    message = refusal(tmp_path, INSULA_ADMIN_TOKEN="hunter2")
    assert "INSULA_ADMIN__TOKEN" in message
    assert "hunter2" not in message


def test_storage_url_beats_database_url(tmp_path: Path) -> None:
    settings = read(tmp_path, DATABASE_URL="postgres://a/b", INSULA_STORAGE__URL="sqlite:./x.db")
    assert settings.storage_url == "sqlite:./x.db"


def test_secrets_come_from_files_and_credentials_and_are_never_printed(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "admin.token").write_text("by name\n")
    (credentials / "other").write_text("by path\n")
    (tmp_path / "key").write_text("hunter2")
    folder = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert read(tmp_path, None, **folder).admin_token == Secret("by name")
    assert read(tmp_path, None, INSULA_ADMIN__TOKEN_FILE="other", **folder).admin_token == Secret("by path")
    written(tmp_path, "[admin]\ntoken_file = 'nowhere'\n[secrets.'shop.Orders']\nAPI_KEY_file = 'key'")
    settings = read(tmp_path, None, INSULA_ADMIN__TOKEN="hunter2")
    assert settings.admin_token == Secret("hunter2")
    assert settings.secrets["shop.Orders"]["API_KEY"].reveal() == "hunter2"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in f"{settings.admin.token}{settings.admin.token!s:>20}"


def test_an_empty_token_is_none(tmp_path: Path) -> None:
    assert read(written(tmp_path, "[admin]\ntoken = ''")).admin_token is None


def test_services_may_be_named_with_or_without_quotes(tmp_path: Path) -> None:
    settings = read(written(tmp_path, "[env.shop.Orders]\nA = '1'\n[env.'deep.shop.Orders']\nB = '2'"))
    assert settings.env == {"shop.Orders": {"A": "1"}, "deep.shop.Orders": {"B": "2"}}


@pytest.mark.parametrize("quotes", ["", '"'])
def test_a_service_and_one_version_of_it_with_or_without_quotes_in_every_table(tmp_path: Path, quotes: str) -> None:
    both, one = f"{quotes}shop.Orders{quotes}", f"{quotes}shop.Orders.v1{quotes}"
    toml = f"""
        [env.{both}]
        A = "1"
        [env.{one}]
        A = "2"
        [limits.services.{both}]
        mailbox = 5
        [limits.services.{one}]
        mailbox = 6
        [grants.allow]
        {both} = ["okra.env"]
        [grants.deny]
        {one} = ["okra.env"]
        [logging.levels]
        {quotes}insula.edge{quotes} = "debug"
    """
    settings = read(written(tmp_path, toml))
    assert settings.env == {"shop.Orders": {"A": "1"}, "shop.Orders.v1": {"A": "2"}}
    assert {name: own.mailbox for name, own in settings.limits.services.items()} == {
        "shop.Orders": 5,
        "shop.Orders.v1": 6,
    }
    assert settings.grants.allow == {"shop.Orders": ("okra.env",)}
    assert settings.grants.deny == {"shop.Orders.v1": ("okra.env",)}
    assert settings.logging.levels == {"insula.edge": "debug"}


@pytest.mark.parametrize(("profile", "port"), [("insula", 8080), ("rune", 3000), ("tinywasm", 6060)])
def test_a_profile_changes_defaults_only(tmp_path: Path, profile: str, port: int) -> None:
    settings = read(tmp_path, {"server.profile": profile})
    assert settings.server.port == port
    assert settings.server.apps_dir == (tmp_path / "apps" if profile == "rune" else None)
    assert settings.modules.dir == (tmp_path / "modules/dist" if profile == "tinywasm" else None)
    assert read(tmp_path, {"server.profile": profile, "server.port": 1}).server.port == 1


def test_a_named_file_must_be_there_and_every_file_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no configuration file other\.toml"):
        load("other.toml", environ={}, cwd=tmp_path)
    (tmp_path / "big.toml").write_text("#" * (1 << 20) + "\n#")
    with pytest.raises(ConfigurationError, match="larger"):
        load("big.toml", environ={}, cwd=tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load("latin.toml", environ={}, cwd=tmp_path)
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf[server]\nport = 1\n")
    assert load("bom.toml", environ={}, cwd=tmp_path).server.port == 1


def test_dotenv_is_read_as_others_read_it(tmp_path: Path) -> None:
    text = """
# a comment
export INSULA_SERVER__HOST='::1'
INSULA_SERVER__ADMIN_HOST = "localhost"  # why
INSULA_SERVER__PORT=90 # text
INSULA_ADMIN__TOKEN=a#b
OTHER=whatever
"""
    settings = read(written(tmp_path, env=text))
    assert (settings.server.host, settings.server.admin_host, settings.server.port) == ("::1", "localhost", 90)
    assert settings.admin_token == Secret("a#b")
    (tmp_path / ".env").write_text("INSULA_ADMIN__TOKEN hunter2")
    with pytest.raises(ConfigurationError, match=r"\.env, line 1") as caught:
        read(tmp_path)
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=200))
def test_any_dotenv_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.env"
    file.write_text(text, encoding="utf-8", errors="replace")
    try:
        dotenv_layer(file)
    except ConfigurationError:
        pass


@given(st.sampled_from(sorted(real_keys())), st.integers(0, 30), st.sampled_from("abxyz_"))
def test_any_misspelt_key_is_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, where: int, letter: str
) -> None:
    section, _, name = key.partition(".")
    wrong = name[: where % len(name)] + letter + name[where % len(name) :]
    if f"{section}.{wrong}" in real_keys():
        return
    with pytest.raises(ConfigurationError, match="is not a setting") as caught:
        load(flags={f"{section}.{wrong}": "hunter2"}, environ={}, cwd=tmp_path_factory.getbasetemp())
    assert f"{section}.{wrong}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_limits_of_one_service(tmp_path: Path) -> None:
    toml = '[limits.services."shop.Orders"]\nbody_values = 200000\nsingleton = true\n'
    own = read(written(tmp_path, toml)).limits.services
    assert own == {"shop.Orders": ServiceLimitSettings(body_values=200_000, singleton=True)}
    environ = read(tmp_path, INSULA_LIMITS__SERVICES='{"a.B": {"output_mb": 8}}').limits.services
    assert environ == {"a.B": ServiceLimitSettings(output_mb=8)}
    assert '"body_values" = 200000' in shown(own)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('"shop.Orders"]\nbody_value = 7777', "did you mean `body_values`"),
        ('"shop.Orders"]\noutput_mb = 7777', "must be a whole number from 1 to 256"),
        ('"shop.Orders"]\nsingleton = 7777', "must be true or false"),
        ("Orders]\nmailbox = 7777", "does not name a service"),
        ('"shop.Orders"]\n"limits.services" = 7777', '"shop.Orders"'),
        (
            '"shop.Orders"]\ncodec_memory_mb = 7777',
            "it is a limit of the whole server: write codec_memory_mb under [limits]",
        ),
        ("shop.Orders]\nrequest_timeout_ms = 7777", "write request_timeout_ms under [limits]"),
        (
            '"shop.Orders"]\nmin_instances = 9\nmax_instances = 2',
            "min_instances` in insula.toml is 9, but max_instances",
        ),
        ("shop.Orders.v1]\nmin_instances = 2\nsingleton = true", "a singleton has one instance"),
    ],
)
def test_a_wrong_limit_of_one_service_is_named(tmp_path: Path, table: str, told: str) -> None:
    text = refusal(tmp_path, f"[limits.services.{table}")
    assert told in text
    assert "limits.services" in text
    assert "7777" not in text


def test_a_service_may_be_given_what_a_package_may_ask_for() -> None:
    hints = get_type_hints(ServiceLimitSettings, include_extras=True)
    for key, (least, most) in LIMIT_BOUNDS.items():
        bounds = meta(get_args(hints[key])[0])
        assert (bounds.ge, bounds.le) == (least, most)
    assert {*ServiceLimits.__struct_fields__, "body_bytes", "body_values"} == {*ServiceLimitSettings.__struct_fields__}
