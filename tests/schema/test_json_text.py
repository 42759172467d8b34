"""What a JSON text holds, by its bytes."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.schema.json_text import (
    MAX_DEPTH,
    bad_utf8,
    count_values,
    exceeds,
    long_numbers,
    marks_of,
    most_values,
    too_deep,
)


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def deep(text: bytes) -> bool | None:
    return too_deep(marks_of(text))


def test_depth() -> None:
    assert not deep(nested(MAX_DEPTH))
    assert deep(nested(MAX_DEPTH + 1))
    assert deep(b"[" * 10_000)
    assert not deep(b"[" + b"[[],{}]," * 10_000 + b"0]")
    assert not deep(b'{"a": "' + b"[" * 10_000 + b'"}')
    assert not deep(b'{"a": "' + b'\\"[' * 10_000 + b'"}')
    assert deep(b'{"a": "\\\\", "b": ' + nested(10_000) + b"}")


@given(st.recursive(st.text('[]{}"\\', max_size=6), lambda inner: st.lists(inner, min_size=1, max_size=2)))
def test_depth_is_counted_outside_of_strings(value: object) -> None:
    def depth(one: object) -> int:
        return 1 + max(map(depth, one)) if isinstance(one, list) else 0

    text = json.dumps(value).encode()
    padding = MAX_DEPTH - depth(value)
    assert not deep(b"[" * padding + text + b"]" * padding)
    assert deep(b"[" * (padding + 1) + text + b"]" * (padding + 1))


@pytest.mark.parametrize("unit", [b'"', b'\\"', b"\\", b'"\\', b"[{", b'["a\\'])
def test_no_text_makes_the_count_slow(unit: bytes) -> None:
    began = time.process_time()
    deep(b"[" * 300 + unit * (2_000_000 // len(unit)))
    assert time.process_time() - began < 10.0  # a tenth of a second at most; one that looks back would take hours


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('[]{},:"\\ a', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('[]{},:"\\ ', max_size=4), inner, max_size=4),
    max_leaves=30,
)


@given(JSONS, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r")]), st.booleans())
def test_values_are_counted_outside_of_strings(value: object, separators: tuple[str, str], spaced: bool) -> None:
    def count(one: object) -> int:
        inside = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        return 1 + sum(map(count, inside))

    text = json.dumps(value, separators=separators).encode()
    if spaced:  # an empty list is one, with a space in it too; in a string it changes no number
        text = text.replace(b"[]", b"[ ]").replace(b"{}", b"{\n}" if b'"' not in text else b"{}")
    marks = marks_of(text)
    assert count_values(text, marks) == count(value)
    assert exceeds(text, marks, count(value) - 1)
    assert not exceeds(text, marks, count(value))
    assert count(value) <= most_values(marks) <= most_values(text)


def test_depth_is_not_looked_for_longer_than_it_may_take() -> None:
    text = b"[" + b",".join([nested(150)] * 100) + b"]"
    assert too_deep(marks_of(text)) is False
    assert too_deep(marks_of(text), 10_000) is None
    assert too_deep(marks_of(nested(MAX_DEPTH + 1)), 100_000) is True


def test_numbers_that_take_the_decoder_long() -> None:
    assert long_numbers(b'[1e5, 2E+9, 3.25e-10, -1e300, 12, true, "e"]') == 4
    assert long_numbers(b"[1%b, 0.%b1, 1234567890]" % (b"0" * 50, b"0" * 50)) == 2


def test_the_place_of_what_is_not_utf8() -> None:
    assert bad_utf8("ä".encode()) is None
    assert bad_utf8(b"ab\xff") == 2
