"""`insula new` and `insula build`: from an idea to a package, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from insula.cli import options, output


@click.command("new")
@click.argument("name", metavar="NAME")
@click.option("--lang", type=click.Choice(["c", "go"]), default="c", help="Language of the service; default c.")
@click.option("--namespace", metavar="NAMESPACE", default="demo", help="Namespace of the service; default demo.")
@click.option("--folder", type=options.FOLDER, metavar="DIR", help="Where; default: a folder of that name here.")
@options.as_json
def new(name: str, lang: Literal["c", "go"], namespace: str, folder: Path | None, as_json: bool) -> None:
    """Start a service: an IDL file, a source, a README.

    NAME is that of the project, orders or order-book; its service is Orders or OrderBook.
    """
    from insula.build.new import create, service_name

    where = create(name, lang, folder, namespace)
    if as_json:
        output.as_json({"folder": str(where), "name": name, "lang": lang, "namespace": namespace})
        return
    service = service_name(name)
    output.line(f"{where} has {namespace}.{service}, in {'C' if lang == 'c' else 'Go'}; next:")
    output.line(f"  insula build {where}")
    output.line(f"  insula deploy {where}/dist/{service}-0.1.0.okra.pkg")
    output.line(f'  insula call {namespace}.{service}/greet \'{{"name": "you"}}\'')


@click.command("build")
@click.argument("folder", metavar="[DIR]", type=options.FOLDER, default=Path())
@options.as_json
def build(folder: Path, as_json: bool) -> None:
    """Build a service into dist/NAME-VERSION.okra.pkg.

    The IDL becomes typed stubs, the source wasm. DIR is the folder of the service; without it, this one.
    """
    from insula.build.project import build as build_project

    built = build_project(folder, progress=output.aside)
    path = _near(built.path)
    if as_json:
        output.as_json(
            {
                "package": str(built.path),
                "service_id": built.service_id,
                "digest": f"sha256:{built.digest}",
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
