"""docs/configuration.md is what the settings say, and says all of it."""

from __future__ import annotations

from pathlib import Path

from insula.settings.load import keys_of
from insula.settings.reference import reference
from insula.settings.tree import SECTIONS
from insula.settings.words import bare, meta

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_document_in_the_repository_is_the_one_that_the_settings_write() -> None:
    assert DOCUMENT.read_text() == reference(), "run: make docs"


def test_every_key_is_documented_and_every_number_is_bounded() -> None:
    for section in SECTIONS:
        for key, annotation in keys_of(section).items():
            assert meta(annotation).description, f"{section}.{key}"
            assert f"| `{key}`" in reference()
            if bare(annotation) in (int, float):
                bounds = meta(annotation)
                assert bounds.ge is not None or bounds.gt is not None, f"{section}.{key}"
                assert bounds.le is not None, f"{section}.{key}"
