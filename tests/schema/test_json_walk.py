"""The rules read step by step, and what is refused before they begin."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.schema.idl import parse_idl
from insula.schema.json_walk import MAX_DEPTH, Direction, JsonError, JsonRules, parse, too_deep

RULES = JsonRules(
    parse_idl(
        '@okra(namespace: "a") service S { f(input: T): T } type T { long_one: Long! kids: [T] e: E } enum E { A B }'
    )
)


def test_directions() -> None:
    text = b'{"longOne": "9007199254740993", "kids": [{"long_one": 7}], "e": 2}'
    assert RULES.read(text, "T", False, Direction.IN) == {
        "long_one": 9007199254740993,
        "kids": [{"long_one": 7}],
        "e": "B",
    }
    assert RULES.read(text, "T", False, Direction.OUT) == {
        "longOne": "9007199254740993",
        "kids": [{"longOne": "7"}],
        "e": "B",
    }


def test_an_error_names_the_path_and_never_the_value() -> None:
    with pytest.raises(JsonError) as caught:
        RULES.read(b'{"kids": [{}, {"kids": [{"longOne": "s3cret"}]}]}', "T", False, Direction.IN)
    assert caught.value.path == "$.kids[1].kids[0].long_one"
    assert "s3cret" not in str(caught.value)
    assert caught.value.declared == "T.long_one is declared Long!"


@pytest.mark.parametrize("text", [b"", b"{", b"[1,]", b"{'a':1}", b"NaN", b"[Infinity]", b"{} {}", b"\xef\xbb\xbf{}"])
def test_no_json(text: bytes) -> None:
    with pytest.raises(JsonError, match=r"^\$: not JSON"):
        parse(text)


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def test_depth() -> None:
    assert not too_deep(nested(MAX_DEPTH))
    assert too_deep(nested(MAX_DEPTH + 1))
    assert too_deep(b"[" * 10_000)
    assert not too_deep(b"[" + b"[[],{}]," * 10_000 + b"0]")
    assert not too_deep(b'{"a": "' + b"[" * 10_000 + b'"}')
    assert not too_deep(b'{"a": "' + b'\\"[' * 10_000 + b'"}')
    assert too_deep(b'{"a": "\\\\", "b": ' + nested(10_000) + b"}")
    with pytest.raises(JsonError, match="deeper"):
        parse(nested(10_000))


@given(st.recursive(st.text('[]{}"\\', max_size=6), lambda inner: st.lists(inner, min_size=1, max_size=2)))
def test_depth_is_counted_outside_of_strings(value: object) -> None:
    def depth(one: object) -> int:
        return 1 + max(map(depth, one)) if isinstance(one, list) else 0

    text = json.dumps(value).encode()
    padding = MAX_DEPTH - depth(value)
    assert not too_deep(b"[" * padding + text + b"]" * padding)
    assert too_deep(b"[" * (padding + 1) + text + b"]" * (padding + 1))


@pytest.mark.parametrize("unit", [b'"', b'\\"', b"\\", b'"\\', b"[{", b'["a\\'])
def test_no_text_makes_the_count_slow(unit: bytes) -> None:
    too_deep(b"[" * 300 + unit * (2_000_000 // len(unit)))  # a count that looks back would take hours here
