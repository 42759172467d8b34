from __future__ import annotations

import sys
from pathlib import Path

import pytest

from insula.calls import ServiceId
from insula.errors import ConfigurationError
from insula.host import catalogue
from insula.host.services import HostServices
from tests.host.conftest import Host

CAPABILITY = """
from insula.host.contract import Configured

class Weather:
    name = "{name}"

    def __init__(self, services):
        self.services = services

    def configure(self, service, options):
        return Today(service)

class Today(Configured):
    def __init__(self, service):
        self.service = service

    @property
    def okra(self):
        return {{"today": lambda scope, parameters: b'"rain at %b"' % str(self.service).encode()}}
"""


def install(site: Path, name: str, value: str, module: str = "weather_of_tests", body: str = "") -> None:
    """A distribution as pip leaves it: a module and its dist-info."""
    (site / f"{module}.py").write_text(body or CAPABILITY.format(name=name))
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[insula.capabilities]\n{name} = {value}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    return tmp_path


def test_the_built_in_ones() -> None:
    assert catalogue.load(HostServices()).names == {"okra.log", "okra.context", "okra.time", "okra.env", "okra.call"}


class TestStrangers:
    def test_by_the_same_door(self, site: Path) -> None:
        install(site, "acme.weather", "weather_of_tests:Weather")
        loaded = catalogue.load(HostServices())
        assert "acme.weather" in loaded.names
        service = ServiceId("a", "B", "v1")
        made = loaded.configure(service, {"acme.weather": {}, "okra.time": {}})
        assert set(made) == {"acme.weather", "okra.time"}
        assert made["acme.weather"].okra["today"](Host().scope, b"{}") == b'"rain at a.B.v1"'

    def test_one_that_takes_a_name_that_is_taken(self, site: Path) -> None:
        install(site, "okra.log", "weather_of_tests:Weather")
        with pytest.raises(ConfigurationError, match=r"two capabilities are named okra\.log"):
            catalogue.load(HostServices())

    @pytest.mark.parametrize("value", ["weather_of_tests:Nothing", "no_such_module_of_tests:Weather"])
    def test_one_that_does_not_load(self, site: Path, value: str) -> None:
        install(site, "acme.weather", value)
        with pytest.raises(ConfigurationError, match=r"'acme\.weather'") as caught:
            catalogue.load(HostServices())
        assert value in str(caught.value)
