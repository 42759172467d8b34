"""The quick types say the same as the rules, for every schema and value."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.errors import PackageError
from insula.schema.idl import parse_idl
from insula.schema.json_codec import compile_all
from insula.schema.json_types import JsonTypes
from insula.schema.json_walk import Direction, JsonError, JsonRules
from insula.schema.model import Schema
from tests.schema.strategies import broken, same, schemas, values


@settings(max_examples=60, deadline=None)
@given(st.data(), schemas(plain=True), st.sampled_from(Direction))
def test_quick_and_thorough_agree(data: st.DataObject, schema: Schema, direction: Direction) -> None:
    rules = JsonRules(schema)
    types = JsonTypes(rules)
    for kind in schema.types:
        value = data.draw(values(schema, kind.name))
        if data.draw(st.booleans()):
            value = data.draw(broken(value))
        text = json.dumps(value).encode()
        decoder, _ = types.decoder(kind.name, False, direction)
        quick = None
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            quick = json.loads(msgspec.json.encode(decoder.decode(text)))
        if quick is not None:
            # what the types take, the rules take in the same way; what they leave is the rules' own
            assert same(quick, rules.read(text, kind.name, False, direction, 1 << 20))


def test_a_message_that_is_the_same_both_ways_has_one_class() -> None:
    schema = parse_idl(
        """@okra(namespace: "a") service S { f(input: T): T }
        type T { a: Int b: U kids: [T] } type U { x: Long } type V { a: V }"""
    )
    types = JsonTypes(JsonRules(schema))
    one, other = (types.decoder("T", False, direction)[0] for direction in Direction)
    assert type(one.decode(b"{}")) is not type(other.decode(b"{}"))
    one, other = (types.decoder("V", False, direction)[0] for direction in Direction)
    assert type(one.decode(b"{}")) is type(other.decode(b"{}"))


def test_names_that_python_uses_itself() -> None:
    names = ["class", "init__", "self", "None_", "f0", "a0", "f1", "def", "encode"]
    fields = " ".join(f"{name}: String!" for name in names)
    schema = parse_idl(f'@okra(namespace: "a") service S {{ f(input: T): T }} type T {{ {fields} }}')
    codec = compile_all(schema)["f"]
    value = {name: name for name in names}
    assert json.loads(codec.read_input(json.dumps(value).encode())) == value


def ring(size: int) -> Schema:
    chain = " ".join(f"type T{n} {{ a: T{n + 1} }}" for n in range(size))
    return parse_idl(f'@okra(namespace: "a") service S {{ f(input: T0): T0 }} {chain} type T{size} {{ a: T0 }}')


def test_types_inside_each_other() -> None:
    assert compile_all(ring(200))["f"].read_input(b'{"a":{"a":{}}}') == b'{"a":{"a":{}}}'
    with pytest.raises(PackageError, match="nest too deeply"):
        compile_all(ring(1_500))


def test_both_spellings_at_once_are_left_to_the_rules() -> None:
    schema = parse_idl('@okra(namespace: "a") service S { f(input: T): T } type T { first_name: String }')
    types = JsonTypes(JsonRules(schema))
    text = b'{"first_name":"a","firstName":"b"}'
    with pytest.raises(msgspec.ValidationError):
        types.decoder("T", False, Direction.IN)[0].decode(text)
    with pytest.raises(JsonError, match="twice"):
        types.rules.read(text, "T", False, Direction.IN, 1000)
