"""Packages that come with Insula, so that a first server has something to answer with."""

from __future__ import annotations

from pathlib import Path


def find(name: str) -> Path | None:
    """The package of an example by its name, or None where the text is no such name."""
    path = Path(__file__).parent / f"{name}.okra.pkg"
    return path if name.isidentifier() and path.is_file() else None
