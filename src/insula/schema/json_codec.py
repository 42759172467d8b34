"""The JSON of one method, compiled once at deploy: the client's JSON -> the guest's, and the guest's -> the client's.

The plain case is one msgspec decode and one encode (`json_types`). Anything else is read step by step (`json_walk`),
which has the full rules and names the field that is wrong. Before either, a body is refused that is not UTF-8 throughout
or nests deeper than `json_walk.MAX_DEPTH`.

A method without input gives the guest `{}` whatever object came, or none; a body that is no JSON object is refused there
too. A bare return value (scalar, enum, list) is written bare by the guest and leaves as `{"response": …}`; null or an
empty answer is the zero value. A method without output answers `{}`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from insula.errors import CallerError, GuestError, PackageError
from insula.plans import JsonCodec
from insula.schema.json_types import JsonTypes
from insula.schema.json_walk import MAX_DEPTH, Direction, JsonError, JsonRules, check_text, parse, too_deep
from insula.schema.model import Method, Schema
from insula.schema.names import split_list
from insula.schema.policy import is_stream

_encode = msgspec.json.Encoder().encode
_REFUSALS = (msgspec.MsgspecError, ValueError, RecursionError)


def compile_json(schema: Schema, method: Method) -> JsonCodec:
    """The codec of one method of a checked schema. For all of a schema's methods use `compile_all`: it shares types."""
    return _compile(schema, method, JsonTypes(JsonRules(schema)))


def compile_all(schema: Schema) -> dict[str, JsonCodec]:
    """The codec of every method of a checked schema, by method name. PackageError where the types nest too deeply."""
    types = JsonTypes(JsonRules(schema))
    return {method.name: _compile(schema, method, types) for method in schema.service.methods}


def _compile(schema: Schema, method: Method, types: JsonTypes) -> JsonCodec:
    item, many = split_list(method.output_type)
    if is_stream(method):
        many = False
    try:
        reader = _InputReader(types, method.input_type) if method.input_type else _NoInput()
        writer = _OutputWriter(types, item, many, schema.wrapped(method) is not None) if item else _NoOutput()
    except RecursionError:
        raise PackageError(
            f"the types of method {method.name} nest too deeply", hint="at most some hundred types inside each other"
        ) from None
    return _Codec(reader, writer)


class _Codec:
    __slots__ = ("read_input", "write_output")

    def __init__(self, reader: _InputReader | _NoInput, writer: _OutputWriter | _NoOutput) -> None:
        self.read_input = reader.read
        self.write_output = writer.write


class _InputReader:
    __slots__ = ("_decode", "_item", "_rules")

    def __init__(self, types: JsonTypes, item: str) -> None:
        self._rules = types.rules
        self._item = item
        self._decode = types.decoder(item, False, Direction.IN)[0].decode

    def read(self, body: bytes) -> bytes:
        try:
            _check(body)
            return _encode(self._decode(body))
        except JsonError as problem:
            raise _caller(problem) from None
        except _REFUSALS:
            return self._step_by_step(body)

    def _step_by_step(self, body: bytes) -> bytes:
        try:
            return _encode(self._rules.read(body, self._item, False, Direction.IN))
        except JsonError as problem:
            raise _caller(problem) from None
        except RecursionError:
            raise _caller(JsonError("$", "the JSON nests too deeply")) from None


class _OutputWriter:
    __slots__ = ("_convert", "_decode", "_item", "_many", "_rules", "_wrapped")

    def __init__(self, types: JsonTypes, item: str, many: bool, wrapped: bool) -> None:
        self._rules = types.rules
        self._item = item
        self._many = many
        self._wrapped = wrapped
        decoder, self._convert = types.decoder(item, many, Direction.OUT)
        self._decode = decoder.decode

    def write(self, payload: bytes) -> bytes:
        try:
            _check(payload)
            value = self._decode(payload)
            if self._convert is not None:
                value = self._convert(value)
        except JsonError as problem:
            raise _guest(problem) from None
        except _REFUSALS:
            value = self._step_by_step(payload or b"null")
        return b'{"response":%b}' % _encode(value) if self._wrapped else _encode(value)

    def _step_by_step(self, payload: bytes) -> Any:
        try:
            return self._rules.read(payload, self._item, self._many, Direction.OUT)
        except JsonError as problem:
            raise _guest(problem) from None
        except RecursionError:
            raise _guest(JsonError("$", "the JSON nests too deeply")) from None


class _NoInput:
    __slots__ = ()

    def read(self, body: bytes) -> bytes:
        if body not in (b"", b"{}"):
            try:
                _check(body)
                if type(parse(body)) is not dict:
                    raise JsonError("$", "expected an object")
            except JsonError as problem:
                raise _caller(problem) from None
        return b"{}"


class _NoOutput:
    __slots__ = ()

    def write(self, payload: bytes) -> bytes:
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
