"""The JSON of one method, compiled once a schema: the client's JSON -> the guest's, and the guest's -> the client's.

A text is measured before anything is decoded: it is refused where it has more values than `Bounds` allow, nests deeper than
MAX_DEPTH, or is not UTF-8 throughout. The plain case is then one msgspec decode and one encode (`json_types`), which runs
only where the text's size and counts bound what it becomes. Anything else is read step by step (`json_walk`), which has the
full rules, names the field that is wrong, and counts what it makes.

A codec of `compile_all` does all of it, however long that takes. One of `JsonCodecs` runs on the event loop: what may take
more than `INLINE_NS` it gives to `elsewhere`, which answers later.

A method without input gives the guest `{}` whatever object came, or none; a body that is no JSON object is refused there
too. A bare return value (scalar, enum, list) is written bare by the guest and leaves as `{"response": …}`; null or an
empty answer is the zero value. A method without output answers `{}`.
"""

from __future__ import annotations

import time
from asyncio import Future
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import msgspec

from insula.errors import CallerError, GuestError, InsulaError, PackageError
from insula.plans import Codec
from insula.schema import bounds as bound
from insula.schema.bounds import DEFAULT_BOUNDS, Bounds
from insula.schema.json_text import (
    MAX_DEPTH,
    bad_utf8,
    beginnings,
    exceeds,
    long_numbers,
    marks_of,
    most_values,
    opening,
    too_deep,
)
from insula.schema.json_types import JsonTypes, fields_in_rings
from insula.schema.json_walk import Direction, JsonError, JsonRules, TooLarge, check_room, parse
from insula.schema.json_weight import BYTE_NS, LONG_NUMBER_NS, STEP_NS, TIME_NS, Weight
from insula.schema.model import Method, Schema
from insula.schema.names import split_list
from insula.schema.policy import is_stream

#: Fields of a schema whose codecs are compiled at its first call, in a few milliseconds; a larger one's at its deploy.
SMALL = 100
#: Fields of types in rings, which are compiled in one step that holds the interpreter; more of them are never compiled
#: here, and all calls of such a schema are read and written elsewhere.
MAX_IN_RINGS = 1_000
#: Nanoseconds that one text may take on the event loop, and bytes of one.
INLINE_NS = 2_500_000
INLINE_BYTES = 262_144
#: Long numbers, and timestamps, that a text of the plain case may have: the decoder takes long for each.
_PLAIN_LONG_NUMBERS = 50
_PLAIN_TIMES = 500
#: Bytes that are read on the event loop to find the depth of one text, all levels together.
_INLINE_LEVELS = 1_000_000
#: Bytes, and fields, that the plain case may make at most. Whether they pass the bounds is checked afterwards.
_ROOM_BYTES = 64 << 20
_ROOM_FIELDS = 2_000_000

#: Reads or writes one text in another place, until the deadline (seconds of time.monotonic()).
Elsewhere: TypeAlias = Callable[[bytes, float], "Future[bytes]"]
_Way: TypeAlias = Callable[..., Any]

_NEVER = float("inf")
_encode = msgspec.json.Encoder().encode
_REFUSALS = (msgspec.MsgspecError, ValueError, RecursionError)


def _no_pause() -> None:
    pass


class WholeCodec(NamedTuple):
    """A codec that does all of its work before it returns. Both raise InsulaError."""

    read_input: Callable[[bytes], bytes]
    write_output: Callable[[bytes], bytes]


class InlineCodec(NamedTuple):
    """A codec for the event loop: both answer at once, or give a future."""

    read_input: Callable[[bytes, float], bytes | Future[bytes]]
    write_output: Callable[[bytes, float], bytes | Future[bytes]]


def compile_json(schema: Schema, method: Method, bounds: Bounds = DEFAULT_BOUNDS) -> WholeCodec:
    """The codec of one method of a checked schema. For all of a schema's methods use `compile_all`: it shares types."""
    return WholeCodec(*_compile(schema, method, _types(JsonRules(schema), (method,)), bounds))


def compile_all(schema: Schema, bounds: Bounds = DEFAULT_BOUNDS) -> dict[str, WholeCodec]:
    """The codec of every method of a checked schema, by method name. PackageError where the types nest too deeply."""
    types = _types(JsonRules(schema), schema.service.methods)
    return {method.name: WholeCodec(*_compile(schema, method, types, bounds)) for method in schema.service.methods}


class JsonCodecs:
    """The codecs of a schema's methods for the event loop, all made when the first is asked for: of many services that are
    deployed few are called. A schema of more than `SMALL` fields is compiled by `prepare`, at its deploy.

    `elsewhere` gives by a method's name where its inputs are read and its outputs written when they are large."""

    __slots__ = ("_bounds", "_codecs", "_elsewhere", "_schema", "away")

    def __init__(self, schema: Schema, bounds: Bounds, elsewhere: Callable[[str], tuple[Elsewhere, Elsewhere]]) -> None:
        self._schema = schema
        self._bounds = bounds
        self._elsewhere = elsewhere
        self._codecs: dict[str, Codec] | None = None
        self.away = False

    def prepare(self) -> None:
        """Compiles a large schema, in a thread that often yields the interpreter to the event loop. PackageError if its
        types nest too deeply. A schema with too many fields in rings is not compiled here: it is `away` from then on, and
        its types are still unchecked."""
        if sum(len(kind.fields) for kind in self._schema.types) <= SMALL:
            return
        rules = JsonRules(self._schema)
        if fields_in_rings(rules) > MAX_IN_RINGS:
            self.away = True
            self._codecs = {method.name: self._away(method.name) for method in self._schema.service.methods}
        else:
            self._codecs = self._compiled(rules, lambda: time.sleep(0))

    def of(self, method: str) -> Codec:
        """The codec of one method."""
        if self._codecs is None:
            self._codecs = self._compiled(JsonRules(self._schema))
        return self._codecs[method]

    def _compiled(self, rules: JsonRules, pause: Callable[[], None] = _no_pause) -> dict[str, Codec]:
        methods = self._schema.service.methods
        types = _types(rules, methods, pause)
        codecs: dict[str, Codec] = {}
        for method in methods:
            ways = _compile(self._schema, method, types, self._bounds, self._elsewhere(method.name))
            codecs[method.name] = InlineCodec(*ways)
            pause()
        return codecs

    def _away(self, method: str) -> Codec:
        return InlineCodec(*self._elsewhere(method))


def check_zeros(schema: Schema, bounds: Bounds) -> None:
    """PackageError where an empty object is larger, with its required fields, than what a method may take or answer."""
    rules = JsonRules(schema)
    for method in schema.service.methods:
        for name, direction, most, setting in (
            (method.input_type, Direction.IN, bounds.input_bytes, "limits.body_bytes of the server"),
            (method.output_type, Direction.OUT, bounds.output_bytes, "limits.output_mb of the package"),
        ):
            item, many = split_list(name)
            if item and (size := rules.weights(direction).zero_bytes(item, many)) > most:
                raise PackageError(
                    f"method {method.name}: an empty {item} takes {size} bytes, as its required fields are always there; "
                    f"{setting} allows {most}",
                    hint="make some of the fields optional (no !), or raise the limit",
                )


def _types(rules: JsonRules, methods: Iterable[Method], pause: Callable[[], None] = _no_pause) -> JsonTypes:
    """The types of these methods, each made on its own: so no step is long, and none is deep."""
    types = JsonTypes(rules)
    items = (split_list(name)[0] for method in methods for name in (method.input_type, method.output_type))
    try:
        types.prepare(items, pause)
    except RecursionError:
        raise _too_nested("the types of the schema") from None
    return types


def _too_nested(what: str) -> PackageError:
    return PackageError(f"{what} nest too deeply", hint="at most some hundred types inside each other")


def _compile(
    schema: Schema,
    method: Method,
    types: JsonTypes,
    bounds: Bounds,
    elsewhere: tuple[Elsewhere | None, Elsewhere | None] = (None, None),
) -> tuple[_Way, _Way]:
    item, many = split_list(method.output_type)
    if is_stream(method):
        many = False
    read_away, write_away = elsewhere
    try:
        if method.input_type:
            reader = _input_reader(types, method.input_type, bounds, read_away)
        else:
            reader = _nothing(_Side(bounds, Direction.IN), read_away, (b"", b"{}"))
        if item:
            wrapped = schema.wrapped(method) is not None
            writer = _output_writer(types, item, many, wrapped, bounds, write_away)
        else:
            writer = _nothing(_Side(bounds, Direction.OUT), write_away, (b"", b"{}", b"null"))
    except RecursionError:
        raise _too_nested(f"the types of method {method.name}") from None
    return reader, writer


class _Side:
    """One direction of a codec: its bounds, and its refusals, which say who broke the rule."""

    def __init__(self, bounds: Bounds, direction: Direction) -> None:
        self._bounds = bounds
        self._in = direction is Direction.IN
        self.direction = direction
        self.values = bounds.values
        self.most = bounds.input_bytes if self._in else bounds.output_bytes

    def refusal(self, problem: JsonError) -> InsulaError:
        hint = problem.declared or None
        if self._in:
            return CallerError(str(problem), hint=hint)
        return GuestError(f"the service's answer does not fit its schema: {problem}", hint=hint)

    def too_large(self) -> InsulaError:
        return bound.input_too_large(self._bounds) if self._in else bound.answer_too_large(self._bounds)

    def check(self, text: bytes, values: int, inline: bool) -> bool:
        """Refuses a text by its bytes: too many values, too deep, not UTF-8. False where that takes too long inline."""
        if not text.isascii() and (place := bad_utf8(text)) is not None:
            raise self.refusal(JsonError("$", f"invalid UTF-8 at byte {place}"))
        if values <= MAX_DEPTH and values <= self._bounds.values:
            return True
        marks = marks_of(text)
        deep = too_deep(marks, _INLINE_LEVELS if inline else None)
        if deep:
            raise self.refusal(JsonError("$", f"the JSON nests deeper than {MAX_DEPTH} levels"))
        most = self._bounds.values
        if values > most and most_values(marks) > most and exceeds(text, marks, most):
            if self._in:
                raise bound.too_many_values(self._bounds, "JSON values")
            raise bound.answer_has_too_many_values(self._bounds)
        return deep is not None


def _safe_bytes(weight: Weight, side: _Side) -> int:
    """The bytes up to which a text needs no measure: whatever it holds, its depth, cost and growth are within bounds."""
    cost = BYTE_NS + weight.value_ns + weight.object_ns // 2 + STEP_NS // 2
    growth = 1 + weight.growth + weight.zero_bytes // 2
    return min(MAX_DEPTH, side.values, INLINE_NS // cost, side.most // growth)


def _plain_bytes(weight: Weight, side: _Side) -> int:
    """The bytes up to which the values of a text need no count: an object takes three bytes with its comma, a value two."""
    cost = BYTE_NS + weight.value_ns // 2 + weight.object_ns // 3 + 1
    growth = 1 + weight.growth // 2 + weight.zero_bytes // 3 + 1
    return min(side.values, INLINE_NS // cost, _ROOM_BYTES // growth, _ROOM_FIELDS // (1 + weight.fields // 3))


# Each way is a closure, since it runs at every call.


def _input_reader(types: JsonTypes, item: str, bounds: Bounds, elsewhere: Elsewhere | None) -> _Way:
    side = _Side(bounds, Direction.IN)
    decode = types.decoder(item, False, Direction.IN)[0].decode
    encode = _encode
    weight = types.rules.weights(Direction.IN).of(item)
    safe = _safe_bytes(weight, side)
    measured = _measured(types.rules, item, False, weight, side, decode, encode, elsewhere)

    def read(body: bytes, deadline: float = _NEVER) -> Any:
        if len(body) <= safe and body.isascii():
            try:
                return encode(decode(body))
            except (JsonError, *_REFUSALS):
                pass
        return measured(body, deadline)

    return read


def _output_writer(
    types: JsonTypes, item: str, many: bool, wrapped: bool, bounds: Bounds, elsewhere: Elsewhere | None
) -> _Way:
    side = _Side(bounds, Direction.OUT)
    decoder, convert = types.decoder(item, many, Direction.OUT)
    plain, encode = decoder.decode, _encode
    decode: Callable[[bytes], Any] = plain
    if convert is not None:
        finish = convert

        def decode(payload: bytes) -> Any:
            return finish(plain(payload))

    if wrapped:

        def encode(value: Any) -> bytes:
            return b'{"response":%b}' % _encode(value)

    weight = types.rules.weights(Direction.OUT).of(item)
    safe = _safe_bytes(weight, side)
    measured = _measured(types.rules, item, many, weight, side, decode, encode, elsewhere)

    def write(payload: bytes, deadline: float = _NEVER) -> Any:
        if len(payload) <= safe and payload.isascii():
            try:
                return encode(decode(payload))
            except (JsonError, *_REFUSALS):
                pass
        return measured(payload or b"null", deadline)

    return write


def _measured(
    rules: JsonRules,
    item: str,
    many: bool,
    weight: Weight,
    side: _Side,
    decode: Callable[[bytes], Any],
    encode: Callable[[Any], bytes],
    elsewhere: Elsewhere | None,
) -> _Way:
    """Reads or writes a text of any size: measured first, then the plain case, then step by step."""
    direction, most = side.direction, side.most
    zero_bytes, fields, growth, value_ns, object_ns, floats, times = weight
    plain_bytes = _plain_bytes(weight, side)

    def measured(text: bytes, deadline: float) -> Any:
        size = len(text)
        if (
            size <= plain_bytes
            and text.isascii()
            and opening(text) <= MAX_DEPTH
            and (not floats or long_numbers(text) <= _PLAIN_LONG_NUMBERS)
            and (not times or text.count(b"T") <= _PLAIN_TIMES)
        ):
            try:
                out = encode(decode(text))
                if len(out) <= most:
                    return out
            except (JsonError, *_REFUSALS):
                pass
        if elsewhere is not None and size > INLINE_BYTES:
            return elsewhere(text, deadline)
        begun = beginnings(text)
        objects = begun.count(b"{")
        values = 1 + len(begun)
        cost = size * BYTE_NS + values * value_ns + objects * object_ns
        if floats and elsewhere is not None:
            cost += long_numbers(text) * LONG_NUMBER_NS
        if times:
            cost += text.count(b"T") * TIME_NS
        if elsewhere is not None and cost > INLINE_NS:
            return elsewhere(text, deadline)
        if not side.check(text, values, elsewhere is not None):
            assert elsewhere is not None
            return elsewhere(text, deadline)
        try:
            grown = size + objects * zero_bytes + values * growth
            if grown <= _ROOM_BYTES and objects * fields <= _ROOM_FIELDS:
                check_room(grown)
                try:
                    out = encode(decode(text))
                except _REFUSALS:
                    pass
                else:
                    if len(out) > most:
                        raise TooLarge
                    return out
            if elsewhere is not None and cost + values * STEP_NS > INLINE_NS:
                return elsewhere(text, deadline)
            out = encode(rules.read(text, item, many, direction, most))
            if len(out) > most:
                raise TooLarge
            return out
        except JsonError as problem:
            raise side.refusal(problem) from None
        except TooLarge:
            raise side.too_large() from None
        except RecursionError:
            raise side.refusal(JsonError("$", "the JSON nests too deeply")) from None

    return measured


def _nothing(side: _Side, elsewhere: Elsewhere | None, plain: tuple[bytes, ...]) -> _Way:
    """What a method without input, or without output, does with a text: it has to be JSON, of an input an object."""

    def nothing(text: bytes, deadline: float = _NEVER) -> Any:
        if text in plain:
            return b"{}"
        values = most_values(text) if len(text) <= INLINE_BYTES else 0
        if elsewhere is not None and (len(text) > INLINE_BYTES or values * STEP_NS > INLINE_NS):
            return elsewhere(text, deadline)
        if not side.check(text, values or most_values(text), elsewhere is not None):
            assert elsewhere is not None
            return elsewhere(text, deadline)
        try:
            if type(parse(text)) is not dict and side.direction is Direction.IN:
                raise JsonError("$", "expected an object")
        except JsonError as problem:
            raise side.refusal(problem) from None
        return b"{}"

    return nothing
