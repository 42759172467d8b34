from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.schema.names import is_identifier, json_name, pascal_value, response_message, split_list, unspecified


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("name", "name"),
        ("first_name", "firstName"),
        ("_x", "X"),
        ("a__b", "aB"),
        ("a_1", "a1"),
        ("Big_Name_", "BigName"),
        ("URL", "URL"),
        ("firstName", "firstName"),
        ("_", ""),
    ],
)
def test_the_json_name_is_protocs(field: str, expected: str) -> None:
    assert json_name(field) == expected


@given(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True))
def test_a_json_name_is_its_own(field: str) -> None:
    assert json_name(json_name(field)) == json_name(field)


@pytest.mark.parametrize("name", ["a", "_a", "A9_", "a" * 128])
def test_names(name: str) -> None:
    assert is_identifier(name)


@pytest.mark.parametrize("name", ["", "9a", "a-b", "a b", "ä", "a\n", "__a", "a" * 129, "a٣"])
def test_no_names(name: str) -> None:
    assert not is_identifier(name)


def test_made_names() -> None:
    assert response_message("shutdown") == "ShutdownResponse"
    assert unspecified("OrderState") == "ORDERSTATE_UNSPECIFIED"
    assert split_list("[Int]") == ("Int", True)
    assert split_list("Int[]") == ("Int", True)
    assert split_list("Int") == ("Int", False)


@pytest.mark.parametrize(
    ("enum", "value", "expected"),
    [
        ("Mood", "HAPPY", "Happy"),
        ("Mood", "MOOD_HAPPY", "Happy"),
        ("Mood", "moodHappy", "Happy"),
        ("OrderState", "ORDER_STATE_DONE", "Done"),
        ("OrderState", "ORDERSTATE_UNSPECIFIED", "Unspecified"),
        ("Mood", "MOOD", "Mood"),
        ("Mood", "MOODY", "Y"),
        ("Mood", "VERY_HAPPY", "VeryHappy"),
    ],
)
def test_values_in_generated_code(enum: str, value: str, expected: str) -> None:
    assert pascal_value(enum, value) == expected
