"""The rules read step by step, and what is refused before they begin."""

from __future__ import annotations

import time
import tracemalloc

import msgspec
import pytest

from insula.schema.idl import parse_idl
from insula.schema.json_walk import Direction, JsonError, JsonRules, TooLarge, parse

RULES = JsonRules(
    parse_idl(
        '@okra(namespace: "a") service S { f(input: T): T } type T { long_one: Long! kids: [T] e: E } enum E { A B }'
    )
)


def test_directions() -> None:
    text = b'{"longOne": "9007199254740993", "kids": [{"long_one": 7}], "e": 2}'
    assert RULES.read(text, "T", False, Direction.IN, 1000) == {
        "long_one": 9007199254740993,
        "kids": [{"long_one": 7}],
        "e": "B",
    }
    assert RULES.read(text, "T", False, Direction.OUT, 1000) == {
        "longOne": "9007199254740993",
        "kids": [{"longOne": "7"}],
        "e": "B",
    }


def test_an_error_names_the_path_and_never_the_value() -> None:
    with pytest.raises(JsonError) as caught:
        RULES.read(b'{"kids": [{}, {"kids": [{"longOne": "s3cret"}]}]}', "T", False, Direction.IN, 1000)
    assert caught.value.path == "$.kids[1].kids[0].long_one"
    assert "s3cret" not in str(caught.value)
    assert caught.value.declared == "T.long_one is declared Long!"


@pytest.mark.parametrize("text", [b"", b"{", b"[1,]", b"{'a':1}", b"NaN", b"[Infinity]", b"{} {}", b"\xef\xbb\xbf{}"])
def test_no_json(text: bytes) -> None:
    with pytest.raises(JsonError, match=r"^\$: not JSON"):
        parse(text)


def test_nothing_is_made_of_what_nests_without_end() -> None:
    with pytest.raises(JsonError, match="too deeply"):
        parse(b"[" * 100_000)


ZEROS = JsonRules(
    parse_idl(
        """@okra(namespace: "a") service S { f(input: T): T }
        type T { rows: [Row!]! e: E } type Row { """
        + " ".join(f"field_{number}: String!" for number in range(500))
        + " o: Row } enum E { A B }"
    )
)


@pytest.mark.parametrize("row", [b"{}", b'{"field_1":"x"}', b'{"nothing":1}', b'{"o":{}}'])
@pytest.mark.parametrize("direction", Direction)
def test_what_is_left_out_is_counted_before_it_is_made(row: bytes, direction: Direction) -> None:
    text = b'{"rows":[' + b",".join([row] * 20_000) + b"]}"
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            ZEROS.read(text, "T", False, direction, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 30 << 20  # most of it is the text, parsed
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"rows":[{},{"field_1":"x"},{"nothing":1},{"o":{}}]}',
        b'{"rows":[],"e":1}',
        b'{"rows":[{"o":null}],"e":"A"}',
    ],
)
def test_the_count_is_what_is_written(text: bytes, direction: Direction) -> None:
    value = ZEROS.read(text, "T", False, direction, 1 << 20)
    size = len(msgspec.json.encode(value))
    assert ZEROS.read(text, "T", False, direction, size) == value
    with pytest.raises(TooLarge):
        ZEROS.read(text, "T", False, direction, size * 3 // 4)


def test_a_name_is_looked_up_in_a_large_enum() -> None:
    names = " ".join(f"V{number}" for number in range(9_000))
    rules = JsonRules(
        parse_idl(f'@okra(namespace: "a") service S {{ f(input: T): T }} type T {{ e: [E!] }} enum E {{ {names} }}')
    )
    text = b'{"e":[' + b",".join([b'"V8999"'] * 60_000) + b"]}"
    began = time.process_time()
    rules.read(text, "T", False, Direction.IN, 1 << 20)
    assert time.process_time() - began < 3.0  # 0.1 s; a look at each name for each item takes 15 s
