"""`insula new` and `insula build`: from an idea to a package, without a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from insula.cli import output
from insula.cli.options import Json
from insula.logs import escaped


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the project: orders, or order-book.")],
    lang: Annotated[Literal["c", "go"], typer.Option("--lang", help="Language of the service.")] = "c",
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAMESPACE", help="Namespace of the service.")
    ] = "demo",
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Where; default: a folder of that name here.")
    ] = None,
    json: Json = False,
) -> None:
    """Start a service: an IDL file, a source with one method, a README."""
    from insula.build.new import create

    where = create(name, lang, folder, namespace)
    if json:
        output.as_json({"folder": str(where), "name": name, "lang": lang, "namespace": namespace})
        return
    output.line(f"{where} is there; next:")
    output.line(f"  insula build {where}")
    output.line(f"  insula deploy {where}/dist/*.okra.pkg")


def build(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the service.", show_default=False)] = Path(),
    json: Json = False,
) -> None:
    """Build a service: IDL to typed stubs, source to wasm, all into dist/NAME-VERSION.okra.pkg."""
    from insula.build.project import build as build_project

    def say(text: str) -> None:
        print(escaped(text), file=sys.stderr)

    built = build_project(folder, progress=say)
    path = _near(built.path)
    if json:
        output.as_json(
            {
                "package": str(built.path),
                "service_id": built.service_id,
                "digest": built.digest,
                "bytes": built.size,
                "wasm_bytes": built.wasm_size,
                "seconds": round(built.seconds, 3),
            }
        )
        return
    output.line(f"{path}: {built.service_id}, {built.size} bytes, {built.seconds:.1f} s")
    output.line(f"  insula deploy {path}")


def _near(path: Path) -> Path:
    """The path as somebody here would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
