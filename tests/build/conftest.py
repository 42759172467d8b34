"""The echo service, built once a session in each language. It has a field of every kind, and what goes in comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import wasmtime

from tests.build.guests import Guest, build_module, write_project
from tests.toolchains import needs

_ECHO = Path(__file__).parent / "echo_service"
SOURCES = {"c": ["service.okra.gql", "service.c"], "go": ["service.okra.gql", "service.go", "go.mod"]}


@pytest.fixture(scope="session", params=sorted(SOURCES))
def language(request: pytest.FixtureRequest) -> str:
    """The languages that there are compilers for."""
    language: str = request.param
    needs(language)
    return language


@pytest.fixture(scope="session")
def echo_module(language: str, tmp_path_factory: pytest.TempPathFactory) -> wasmtime.Module:
    """The module of the echo service."""
    files = {name: (_ECHO / name).read_text("utf-8") for name in SOURCES[language]}
    return build_module(write_project(tmp_path_factory.mktemp("echo"), files, language=language))


@pytest.fixture(scope="session")
def echo(echo_module: wasmtime.Module) -> Guest:
    """An instance of it that must not call its host."""
    return Guest(echo_module)
