"""What is read at once says the same as what is checked and read step by step, around the length where that changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from insula.errors import InsulaError
from insula.schema.json_text import MAX_DEPTH, bad_utf8, marks_of, too_deep
from insula.schema.json_walk import Direction, JsonError, JsonRules
from insula.schema.names import split_list
from tests.schema.strategies import broken, same, values
from tests.schema.test_json_codec import CODECS, PIECES, SCHEMA

RULES = JsonRules(SCHEMA)


def _nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@st.composite
def _texts(draw: st.DrawFn, type_name: str) -> bytes:
    """JSON of a type, or nearly so, with what nests in it, letters of every kind, and a length about MAX_DEPTH."""
    value = draw(values(SCHEMA, type_name))
    if draw(st.integers(0, 3)) == 0:
        value = draw(broken(value))
    text = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if isinstance(value, dict) and draw(st.booleans()):
        levels = draw(st.sampled_from([1, 90, 96, 97, 98, 99, 100, 198, 199, 200, 201]))
        text = b'{"deep":' + _nested(levels) + (b"," + text[1:] if value else b"}")
    if draw(st.booleans()):
        room = draw(st.integers(MAX_DEPTH - 3, MAX_DEPTH + 3)) - len(text)
        at = draw(st.sampled_from([0, len(text)]))
        text = text[:at] + b" " * room + text[at:]
    if draw(st.integers(0, 3)) == 0 and text:
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + draw(st.sampled_from(PIECES)) + text[at + draw(st.integers(0, 1)) :]
    return text


def _by_the_rules(text: bytes, type_name: str, direction: Direction) -> Any:
    """What the rules say where everything is checked first and read step by step: the value, or what is wrong."""
    item, many = split_list(type_name)
    try:
        if (place := bad_utf8(text)) is not None:
            raise JsonError("$", f"invalid UTF-8 at byte {place}")
        if too_deep(marks_of(text)):
            raise JsonError("$", f"the JSON nests deeper than {MAX_DEPTH} levels")
        return json.loads(msgspec.json.encode(RULES.read(text, item, many, direction, 1 << 20)))
    except JsonError as problem:
        return problem


def _by_the_codec(way: Callable[[bytes], bytes], text: bytes) -> Any:
    try:
        return json.loads(way(text))
    except InsulaError as problem:
        return problem


def _agree(one: Any, other: Any) -> bool:
    if isinstance(other, JsonError):
        return isinstance(one, InsulaError) and one.message.endswith(str(other))
    return same(one, other)


@settings(max_examples=100, deadline=None)
@given(_texts("All") | _texts("Tree") | _texts("Req") | st.integers(MAX_DEPTH - 2, MAX_DEPTH + 2).map(b"[".__mul__))
@example(b'{"up":' * 100 + b"{}" + b"}" * 100)
@example(b'{"x":' + _nested(199) + b"}")
@example(b'{"x":' + _nested(200) + b"}")
@example(b'{"x":"' + b"[" * 300 + b'"}')
@example('{"message":"ö"}'.encode())
@example(b'{"x":"\xff"}')
@example(b'{"x":"\xff"}' + b" " * 200)
@example(b'{"x":"\xed\xa0\x80"}' + b" " * 188)
def test_what_is_read_at_once_and_what_is_checked_first_are_the_same(text: bytes) -> None:
    for method, type_in, type_out in (("echo", "All", "All"), ("grow", "Tree", "Tree"), ("greet", "Req", "Res")):
        codec = CODECS[method]
        assert _agree(_by_the_codec(codec.read_input, text), _by_the_rules(text, type_in, Direction.IN))
        assert _agree(_by_the_codec(codec.write_output, text), _by_the_rules(text, type_out, Direction.OUT))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["shutdown", "count", "when", "moods", "longs", "everyone", "names", "people"]), st.data())
def test_so_are_the_answers_of_every_shape(method: str, data: st.DataObject) -> None:
    declared = next(each for each in SCHEMA.service.methods if each.name == method)
    item, many = split_list(declared.output_type)
    streams = any(each.name == "stream" for each in declared.directives)
    type_name = item if streams else declared.output_type
    text = data.draw(_texts(type_name))
    expected = _by_the_rules(text, type_name, Direction.OUT)
    wrapped = SCHEMA.wrapped(declared) is not None
    if wrapped and not isinstance(expected, JsonError):
        expected = {"response": expected}
    assert _agree(_by_the_codec(CODECS[method].write_output, text), expected), (many, streams)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["echo", "grow", "greet"]), st.lists(st.integers(0, 300), min_size=2, max_size=2))
def test_spaces_change_nothing(data: st.DataObject, method: str, rooms: list[int]) -> None:
    type_name = {"echo": "All", "grow": "Tree", "greet": "Req"}[method]
    text = json.dumps(data.draw(values(SCHEMA, type_name)), ensure_ascii=False).encode()
    codec = CODECS[method]
    for way in (codec.read_input, codec.write_output):
        answers = {way(text + b" " * max(0, room - len(text))) for room in (0, MAX_DEPTH, MAX_DEPTH + 1, *rooms)}
        assert len(answers) == 1
