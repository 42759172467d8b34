"""The JSON of one method, compiled once at deploy: the client's JSON -> the guest's, and the guest's -> the client's.

The plain case is one msgspec decode and one encode (`json_types`). Anything else is read step by step (`json_walk`),
which has the full rules and names the field that is wrong. Before either, a body is refused that is not UTF-8 throughout
or nests deeper than `json_walk.MAX_DEPTH`.

A method without input gives the guest `{}` whatever object came, or none; a body that is no JSON object is refused there
too. A bare return value (scalar, enum, list) is written bare by the guest and leaves as `{"response": …}`; null or an
empty answer is the zero value. A method without output answers `{}`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from insula.errors import CallerError, GuestError, PackageError
from insula.plans import JsonCodec
from insula.schema.json_types import JsonTypes
from insula.schema.json_walk import MAX_DEPTH, Direction, JsonError, JsonRules, check_text, parse, too_deep
from insula.schema.model import Method, Schema
from insula.schema.names import split_list
from insula.schema.policy import is_stream

#: Types of a schema that is compiled at its first call.
SMALL = 32

_encode = msgspec.json.Encoder().encode
_REFUSALS = (msgspec.MsgspecError, ValueError, RecursionError)


def compile_json(schema: Schema, method: Method) -> JsonCodec:
    """The codec of one method of a checked schema. For all of a schema's methods use `compile_all`: it shares types."""
    return _compile(schema, method, JsonTypes(JsonRules(schema)))


def compile_all(schema: Schema) -> dict[str, JsonCodec]:
    """The codec of every method of a checked schema, by method name. PackageError where the types nest too deeply."""
    types = JsonTypes(JsonRules(schema))
    return {method.name: _compile(schema, method, types) for method in schema.service.methods}


class JsonCodecs:
    """The codecs of a schema's methods, by name, all made when the first is asked for: of many services that are deployed
    few are called. That takes the moment of a call for a schema of up to `SMALL` types; a larger one is compiled by
    `prepare`, at its deploy."""

    __slots__ = ("_codecs", "_schema")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._codecs: dict[str, JsonCodec] | None = None

    def prepare(self) -> None:
        """Compiles a large schema, in whatever thread. PackageError where its types nest too deeply."""
        if len(self._schema.types) > SMALL:
            self._codecs = compile_all(self._schema)

    def of(self, method: str) -> JsonCodec:
        """The codec of one method."""
        if self._codecs is None:
            self._codecs = compile_all(self._schema)
        return self._codecs[method]


def _compile(schema: Schema, method: Method, types: JsonTypes) -> JsonCodec:
    item, many = split_list(method.output_type)
    if is_stream(method):
        many = False
    try:
        reader = _input_reader(types, method.input_type) if method.input_type else _read_nothing
        wrapped = schema.wrapped(method) is not None
        writer = _output_writer(types, item, many, wrapped) if item else _write_nothing
    except RecursionError:
        raise PackageError(
            f"the types of method {method.name} nest too deeply", hint="at most some hundred types inside each other"
        ) from None
    return _Codec(reader, writer)


class _Codec(NamedTuple):
    read_input: Callable[[bytes], bytes]
    write_output: Callable[[bytes], bytes]


# Each is a function that has all it needs at hand: they run at every call.


def _input_reader(types: JsonTypes, item: str) -> Callable[[bytes], bytes]:
    decode = types.decoder(item, False, Direction.IN)[0].decode
    rules, encode = types.rules, _encode

    def read(body: bytes) -> bytes:
        try:
            if len(body) > MAX_DEPTH or not body.isascii():  # what is shorter cannot nest deeper
                _check(body)
            return encode(decode(body))
        except JsonError as problem:
            raise _caller(problem) from None
        except _REFUSALS:
            return step_by_step(body)

    def step_by_step(body: bytes) -> bytes:
        try:
            return encode(rules.read(body, item, False, Direction.IN))
        except JsonError as problem:
            raise _caller(problem) from None
        except RecursionError:
            raise _caller(JsonError("$", "the JSON nests too deeply")) from None

    return read


def _output_writer(types: JsonTypes, item: str, many: bool, wrapped: bool) -> Callable[[bytes], bytes]:
    decoder, convert = types.decoder(item, many, Direction.OUT)
    rules, decode, encode = types.rules, decoder.decode, _encode

    def write(payload: bytes) -> bytes:
        try:
            if len(payload) > MAX_DEPTH or not payload.isascii():
                _check(payload)
            value = decode(payload)
            if convert is not None:
                value = convert(value)
        except JsonError as problem:
            raise _guest(problem) from None
        except _REFUSALS:
            value = step_by_step(payload or b"null")
        return b'{"response":%b}' % encode(value) if wrapped else encode(value)

    def step_by_step(payload: bytes) -> Any:
        try:
            return rules.read(payload, item, many, Direction.OUT)
        except JsonError as problem:
            raise _guest(problem) from None
        except RecursionError:
            raise _guest(JsonError("$", "the JSON nests too deeply")) from None

    def write_plain(payload: bytes) -> bytes:
        try:
            if len(payload) <= MAX_DEPTH and payload.isascii():
                return encode(decode(payload))
        except _REFUSALS:
            pass
        return write(payload)

    return write if wrapped or convert is not None else write_plain


def _read_nothing(body: bytes) -> bytes:
    if body not in (b"", b"{}"):
        try:
            _check(body)
            if type(parse(body)) is not dict:
                raise JsonError("$", "expected an object")
        except JsonError as problem:
            raise _caller(problem) from None
    return b"{}"


def _write_nothing(payload: bytes) -> bytes:
    if payload not in (b"", b"{}", b"null"):
        try:
            _check(payload)
            parse(payload)
        except JsonError as problem:
            raise _guest(problem) from None
    return b"{}"


def _check(text: bytes) -> None:
    if not text.isascii():
        check_text(text)
    if too_deep(text):
        raise JsonError("$", f"the JSON nests deeper than {MAX_DEPTH} levels")


def _caller(problem: JsonError) -> CallerError:
    return CallerError(str(problem), hint=problem.declared or None)


def _guest(problem: JsonError) -> GuestError:
    return GuestError(f"the service's answer does not fit its schema: {problem}", hint=problem.declared or None)
