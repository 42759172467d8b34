"""Protobuf binary against protobuf's own library, and against the JSON codec."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protobuf import Message, Registry

from insula.errors import CallerError, Code, GuestError, InsulaError
from insula.schema.binary_codec import compile_binary, read_registry
from insula.schema.binary_count import FieldCount
from insula.schema.bounds import DEFAULT_BOUNDS, Bounds
from insula.schema.descriptors import input_message, output_message, to_descriptor_set
from insula.schema.json_codec import WholeCodec, compile_all, compile_json
from insula.schema.model import Method, Schema
from tests.schema.strategies import same, schemas, values
from tests.schema.test_json_codec import SCHEMA

REGISTRIES: dict[bytes, Registry] = {}
METHODS = {method.name: method for method in SCHEMA.service.methods}


def codec(name: str, schema: Schema = SCHEMA) -> Any:
    method = next(method for method in schema.service.methods if method.name == name)
    return compiled(schema, method)


def compiled(schema: Schema, method: Method, bounds: Bounds = DEFAULT_BOUNDS) -> WholeCodec:
    json_codec = compile_json(schema, method, bounds)
    return compile_binary(registry(schema), schema, method, json_codec, bounds, FieldCount(schema))


def registry(schema: Schema) -> Registry:
    descriptor = to_descriptor_set(schema)
    return REGISTRIES.setdefault(descriptor, read_registry(descriptor))


def message(schema: Schema, name: str) -> type[Message[Any]]:
    found = registry(schema).message(name)
    assert found is not None
    return found.type


def echo() -> type[Message[Any]]:
    return message(SCHEMA, "my.app.All")


def through(text: str) -> dict[str, Any]:
    """What the guest gets for the binary form of a proto3 JSON text; an echo of it, sent again, is the same."""
    payload = codec("echo").read_input(echo().from_json(text).to_binary())
    assert codec("echo").read_input(codec("echo").write_output(payload)) == payload
    return dict(json.loads(payload))


@pytest.mark.parametrize(
    ("field", "sent", "guest"),
    [
        ("l", '"9007199254740993"', 9007199254740993),
        ("l", '"-9223372036854775808"', -(2**63)),
        ("ll", '["1316130638171", "0"]', [1316130638171, 0]),
        ("i", "2147483647", 2**31 - 1),
        ("y", '"--__"', "++//"),
        ("t", '"2026-05-29T08:35:13.700719321Z"', "2026-05-29T08:35:13.700719321Z"),
        ("ot", '"9999-12-31T23:59:59.999999999Z"', "9999-12-31T23:59:59.999999999Z"),
        ("e", '"SAD"', "SAD"),
        ("oe", "0", "MOOD_UNSPECIFIED"),
        ("os", '""', ""),
        ("oi", "0", 0),
        ("om", "{}", {"message": ""}),
        ("om", '{"firstName": "x"}', {"message": "", "first_name": "x"}),
        ("d", '"NaN"', "NaN"),
        ("f", '"-Infinity"', "-Infinity"),
        ("s", '"\\u0000ä😀"', "\0ä😀"),
    ],
)
def test_nothing_is_lost(field: str, sent: str, guest: Any) -> None:
    payload = through(f'{{"{field}": {sent}}}')
    assert same(payload[field], guest)
    assert ("os" in payload) == (field == "os")


def test_an_enum_number_that_nobody_knows_is_refused() -> None:
    with pytest.raises(CallerError, match=r"\$\.e: expected one of "):
        codec("echo").read_input(b"\x48\x63")


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def deep(levels: int) -> bytes:
    body = b""
    for _ in range(levels):
        body = b"\x12" + varint(len(body)) + body
    return body


@pytest.mark.parametrize(
    "body",
    [
        *(b"\xff", b"\x0a", b"\x0a\xff", b"\x0a\x02a", b"\x0b", b"\x00\x00", b"\x0a\x01\xff", b"\x07"),
        b"\x42\x08\x08\xff\xff\xff\xff\xff\xff\x03",  # a timestamp in the year 558,000
        b"\x42\x0b\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # and one with negative nanoseconds
    ],
)
def test_what_is_no_message(body: bytes) -> None:
    with pytest.raises(CallerError) as caught:
        codec("echo").read_input(body)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_depth() -> None:
    codec("grow").read_input(deep(90))
    for levels in (101, 10_000):
        with pytest.raises(CallerError, match="nests too deeply"):
            codec("grow").read_input(deep(levels))
    with pytest.raises(GuestError, match="nests too deeply"):
        codec("grow").write_output(b'{"up":' * 150 + b"{}" + b"}" * 150)


def test_bare_answers_and_no_answers() -> None:
    assert codec("shutdown").read_input(b"") == b"{}"
    assert codec("shutdown").write_output(b"true") == b"\x08\x01"
    assert codec("shutdown").write_output(b"null") == b""
    assert codec("count").write_output(b"300") == b"\x08\xac\x02"
    assert codec("moods").write_output(b'["HAPPY","SAD"]') == b"\x0a\x02\x01\x02"
    assert codec("names").write_output(b'"ab"') == b"\x0a\x02ab"
    assert codec("ping").write_output(b"") == b""
    with pytest.raises(GuestError, match=r"\$\.message: expected a string"):
        codec("greet").write_output(b'{"message": 1}')


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        json.loads(codec("echo").read_input(body))
    except InsulaError:
        return


def pruned(value: Any) -> Any:
    """Without empty lists, which binary cannot tell from lists that are not there."""
    if isinstance(value, dict):
        return {key: pruned(inner) for key, inner in value.items() if inner != []}
    return [pruned(inner) for inner in value] if isinstance(value, list) else value


@settings(max_examples=30, deadline=None)
@given(st.data(), schemas(plain=True))
def test_json_and_binary_are_one(data: st.DataObject, schema: Schema) -> None:
    """For any schema: protobuf's JSON is ours, both ways, and binary gives the guest what JSON gives it."""
    codecs = compile_all(schema)
    for method in schema.service.methods:
        binary = compiled(schema, method)
        if method.input_type:
            _agree_on_input(data, schema, method, codecs[method.name], binary)
        wanted = data.draw(values(schema, method.output_type)) if method.output_type else None
        if method.directive("stream") is None:
            answer = codecs[method.name].write_output(json.dumps(wanted).encode())
            theirs = message(schema, output_message(schema, method)).from_json(answer)
            assert theirs.to_binary() == binary.write_output(json.dumps(wanted).encode())


def _agree_on_input(data: st.DataObject, schema: Schema, method: Method, ours: Any, binary: Any) -> None:
    body = json.dumps(data.draw(values(schema, method.input_type))).encode()
    by_json = json.loads(ours.read_input(body))
    kind = message(schema, input_message(schema, method))
    theirs = kind.from_json(body, ignore_unknown_fields=True)
    assert same(pruned(json.loads(binary.read_input(theirs.to_binary()))), pruned(by_json))
    assert same(pruned(json.loads(ours.read_input(theirs.to_json().encode()))), pruned(by_json))
