"""A new project from the templates: a few files, each one the author's to change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from insula.build.tools import BuildError
from insula.schema.idl import parse_idl

_TEMPLATES = Path(__file__).parent / "templates"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*", re.ASCII)
_MAX_NAME = 64
#: Where a file is called otherwise than in the templates: a dotfile would not be packed with them, and a go.mod would
#: make a module of their folder.
_RENAMED = {"gitignore": ".gitignore", "go.mod.tmpl": "go.mod", "service.go.tmpl": "service.go"}

LANGUAGES = ("c", "go")


def create(name: str, lang: Literal["c", "go"], folder: Path | None = None, namespace: str = "demo") -> Path:
    """Makes the project `name` in `folder` (else in a new folder of that name here) and gives the folder.

    `my-greeter` becomes the service `MyGreeter`. BuildError where the name is none, or the folder holds anything;
    PackageError where the schema may not have such a name or namespace.
    """
    if lang not in LANGUAGES:
        raise BuildError(
            f"there is no template for {lang!r}", hint=f"there is one for {' and one for '.join(LANGUAGES)}"
        )
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise BuildError(
            f"{name[:_MAX_NAME]!r} cannot be the name of a project",
            hint=f"letters, digits and single dashes, beginning with a letter, at most {_MAX_NAME}: my-greeter",
        )
    values = {
        "PROJECT": name,
        "SERVICE": service_name(name),
        "NAMESPACE": namespace,
        "MODULE": name.lower(),
    }
    files = {
        _RENAMED.get(path.name, path.name): _filled(path.read_text("utf-8"), values)
        for path in sorted((_TEMPLATES / lang / "project").iterdir())
    }
    # The schema is the judge of the names that went into it.
    parse_idl(files["service.okra.gql"])

    target = folder if folder is not None else Path(name)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BuildError(f"{target} is there and is not empty", hint="name a folder that is new or empty")
    target.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (target / file).write_text(text, encoding="utf-8", newline="\n")
    return target


def service_name(project: str) -> str:
    """`my-greeter` -> `MyGreeter`."""
    return "".join(part[:1].upper() + part[1:] for part in re.split("[-_]", project))


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: values[match[1]], text)
