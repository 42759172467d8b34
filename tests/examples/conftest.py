"""The examples, built once a session from a copy of their folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from insula.build.project import build
from tests.toolchains import needs

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def _built(name: str, language: str, factory: pytest.TempPathFactory) -> Path:
    needs(language)
    folder = factory.mktemp(name) / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("gen", "dist"))
    return build(folder).path


@pytest.fixture(scope="session")
def greeter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The greeter's package, fresh from its source."""
    return _built("greeter", "c", tmp_path_factory)


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The counter's package, fresh from its source."""
    return _built("counter", "go", tmp_path_factory)
