"""What somebody most likely meant."""

from __future__ import annotations

from insula.spelling import nearest


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    assert nearest("Okra.Json", ["okra.json", "x"]) == "okra.json"
    assert nearest("okra.cahe", ["okra.state", "Okra.Cache"]) == "Okra.Cache"
    assert nearest("zzz", ["okra.json"]) is None
    assert nearest("okra", []) is None


def test_how_alike_it_has_to_be() -> None:
    assert nearest("limit", ["zebra", "limits.port"], least=0.9) is None
    assert nearest("xyz", ["zebra"], least=0.0) == "zebra"


def test_a_strangers_text_is_compared_in_part() -> None:
    """A comparison takes the product of the lengths."""
    assert nearest("a" * 10_000_000, (f"name{number}" for number in range(10_000_000))) is None
