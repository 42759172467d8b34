"""The walls of the house: who may import whom, no circles, no rooms that mean nothing."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "insula"

#: Modules at the root that every room may know.
GROUND = {
    *(
        "authorisation",
        "background",
        "calls",
        "durable",
        "errors",
        "fields",
        "interpreter",
        "loopback",
        "offload",
        "plans",
    ),
    *("headers", "published", "rotation", "shares", "spelling", "threads", "times"),
}

#: Room -> the rooms that it knows. docs/architecture.md draws the same arrows.
KNOWS: dict[str, set[str]] = {
    **{name: set() for name in GROUND},
    "settings": set(),
    "logs": {"settings"},
    "schema": set(),
    "transcoding": {"schema"},
    "storage": set(),
    "wasm": set(),
    "abi": {"wasm"},
    "packages": {"schema"},
    "host": {"storage", "packages"},
    "services": {"wasm", "host", "packages"},
    "kinds": {"abi", "host", "packages", "schema", "services", "transcoding", "wasm"},
    "deployments": {"packages", "services", "storage"},
    "edge": {"settings"},
    "gateways": {"edge", "schema"},
    "api": {"deployments", "edge", "settings"},
    "build": {"packages", "schema"},
    "cli": {"build", "packages", "settings", "logs", "server"},
    "assembly": {
        "abi", "api", "deployments", "edge", "gateways", "host", "kinds", "packages", "schema", "services", "settings",
        "storage", "transcoding", "wasm",
    },
    "examples": set(),
    "server": {"assembly", "deployments", "edge", "examples", "logs", "settings"},
    "__init__": {"server", "settings"},
    "__main__": {"cli"},
}  # fmt: skip

FILES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Every insula module that a file imports, at load or in a function; not what it imports for its types alone."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    types = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
            if node.module and node.module.startswith("insula"):
                names += [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("insula."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    here = room(path)
    assert here in KNOWS, f"{here} is a new room: say what it knows here and in docs/architecture.md"
    for name in imports(path):
        there = name.split(".")[1]
        if there.startswith("_") and not (SOURCE / there).exists():
            continue  # insula.__version__ and the like
        assert there == here or there in GROUND or there in KNOWS[here], f"{path} may not import {name}"


def test_no_import_circles() -> None:
    """Imports inside functions too: they put the cost of an import off, they are no way round a wall."""
    names = {
        "insula." + ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    graph = {name: {target for target in imports(path) if target in names} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_ctypes_is_in_one_folder_alone() -> None:
    users = {path.parent for path in FILES if re.search(r"^\s*(import|from) ctypes\b", path.read_text(), re.MULTILINE)}
    assert users == {SOURCE / "wasm" / "native"}


def test_no_room_without_a_meaning() -> None:
    for path in FILES:
        assert not {"utils", "common", "helpers", "misc"} & {part.removesuffix(".py") for part in path.parts}, path


def test_every_module_says_what_it_is() -> None:
    for path in FILES:
        text = path.read_text()
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_no_dead_modules() -> None:
    """Every module is imported by another, or is a door that something outside the package knows."""
    doors = {"insula", "insula.__main__", "insula.cli.main", "insula.wasm.compile", "insula.transcoding.child"}
    doors.add("insula.abi.shapes")  # for kinds that come from outside
    imported = {name for path in FILES for name in imports(path)}
    for path in FILES:
        name = "insula." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        if path.name == "__init__.py" or name in doors or "migrations" in path.parts:
            continue
        assert name in imported, f"nothing imports {name}"
