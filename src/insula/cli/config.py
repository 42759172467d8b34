"""`insula config`: the settings that are in force here, and the document that lists them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from insula.cli import options, output


@click.group("config")
def config() -> None:
    """Show the settings that are in force, or their reference."""


@config.command("show")
@options.config_file
@click.option("--all", "everything", is_flag=True, help="Defaults too.")
@options.as_json
def show(config: Path | None, everything: bool, as_json: bool) -> None:
    """Print what is set and where it comes from; secrets are hidden."""
    from insula.settings import load
    from insula.settings.load import keys_of
    from insula.settings.tree import SECTIONS, SERVICE_SECTIONS
    from insula.settings.words import shown

    settings = load(config)
    rows: list[tuple[str, str, str]] = []
    for section in SECTIONS:
        for key in keys_of(section):
            value = shown(getattr(getattr(settings, section), key))
            rows.append((f"{section}.{key}", value, settings.origins.get(f"{section}.{key}", "default")))
    for section in SERVICE_SECTIONS:
        for service, values in getattr(settings, section).items():
            rows += [
                (f"{section}.{service}.{key}", shown(value), settings.origins.get(f"{section}.{service}.{key}", ""))
                for key, value in values.items()
            ]
    if not everything:
        rows = [row for row in rows if row[2] != "default"]
    if as_json:
        found: list[dict[str, Any]] = [{"key": key, "value": value, "from": origin} for key, value, origin in rows]
        output.as_json({"settings": found})
    elif rows:
        output.table(("KEY", "VALUE", "FROM"), rows)
    else:
        output.line("everything is at its default; insula config show --all lists it")


@config.command("docs")
@click.option("--write", type=options.FILE, metavar="FILE", help="Write it there.")
def docs(write: Path | None) -> None:
    """Print docs/configuration.md, the reference of every setting."""
    from insula.settings.reference import reference

    if write is None:
        print(reference(), end="")
    else:
        write.write_text(reference(), encoding="utf-8")
