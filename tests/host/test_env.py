from __future__ import annotations

import logging
from typing import Any

import pytest

from insula.errors import PackageError
from insula.host.env import EnvCapability
from insula.packages.config import read_config
from tests.host.conftest import ID, Host

ENV = {"shop.Orders": {"REGION": "eu", "TOKEN": "t"}, "shop.Other": {"PRICE": "1"}}


def host(*keys: str) -> Host:
    return Host(EnvCapability(ENV), options={"okra.env": {"keys": list(keys)}})


async def test_keys_that_are_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        each = host("REGION", "COLOUR", "PRICE")
    assert await each.ask("okra.env", "get", {"key": "REGION"}) == "eu"
    assert await each.ask("okra.env", "get", {"key": "COLOUR"}) is None
    assert await each.ask("okra.env", "get", {"key": "PRICE"}) is None, "another service's"
    assert 'asks for COLOUR, PRICE, which [env."shop.Orders"] does not set' in caplog.text


async def test_one_version_has_its_own_and_what_every_version_has() -> None:
    env = {"shop.Orders": {"REGION": "eu", "COLOUR": "red"}, "shop.Orders.v1": {"REGION": "us"}, "shop.Orders.v2": {}}
    each = Host(EnvCapability(env), options={"okra.env": {"keys": ["REGION", "COLOUR"]}})
    assert await each.ask("okra.env", "get", {"key": "REGION"}) == "us"
    assert await each.ask("okra.env", "get", {"key": "COLOUR"}) == "red"


async def test_keys_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PROCESS", "x")
    each = host("REGION")
    for key in ("TOKEN", "SECRET_OF_THE_PROCESS", "PATH", ""):
        assert await each.ask("okra.env", "get", {"key": key}) == "POLICY_DENIED"
    assert await each.ask("okra.env", "get", {}) == "INVALID_PARAMETERS"


@pytest.mark.parametrize("options", [{"key": ["A"]}, {"keys": "A"}, {"keys": [1]}, {"keys": {"A": 1}}])
def test_options(options: dict[str, Any]) -> None:
    with pytest.raises(PackageError):
        EnvCapability(ENV).configure(ID, options)


async def test_no_options_is_no_key(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        each = Host(EnvCapability(ENV))
    assert await each.ask("okra.env", "get", {"key": "REGION"}) == "POLICY_DENIED"
    assert "may read no key of it" in caplog.text


async def test_whoever_forgot_the_keys_is_told_where_they_stand() -> None:
    """What the message says to write is what a package may say, and is enough."""
    answer = await host().raw(b'{"api": "okra.env", "method": "get", "parameters": {"key": "REGION"}}')
    written = str(answer["error"]["message"]).partition("host_apis, as ")[2]
    document = f'{{"name": "A", "version": "1", "host_apis": ["okra.env"], {written}}}'
    options = read_config(document.encode()).grants
    assert await Host(EnvCapability(ENV), options=options).ask("okra.env", "get", {"key": "REGION"}) == "eu"
