"""One way of a codec: a JSON text is measured, then read in one go where that is safe, else step by step or elsewhere."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from insula.errors import CallerError, GuestError, InsulaError
from insula.schema import bounds as bound
from insula.schema.bounds import Bounds
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
from insula.schema.json_types import JsonTypes
from insula.schema.json_walk import Direction, JsonError, JsonRules, TooLarge, check_room, parse
from insula.schema.json_weight import BYTE_NS, LONG_NUMBER_NS, STEP_NS, TIME_NS, Weight

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
Way: TypeAlias = Callable[..., Any]
#: A way out, by where large texts are written.
WriterTo: TypeAlias = Callable[["Elsewhere | None"], Way]

_NEVER = float("inf")
_encode = msgspec.json.Encoder().encode
_REFUSALS = (msgspec.MsgspecError, ValueError, RecursionError)


class Side:
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


def _safe_bytes(weight: Weight, side: Side) -> int:
    """The bytes up to which a text needs no measure: whatever it holds, its depth, cost and growth are within bounds."""
    cost = BYTE_NS + weight.value_ns + weight.object_ns // 2 + STEP_NS // 2
    growth = 1 + weight.growth + weight.zero_bytes // 2
    return min(MAX_DEPTH, side.values, INLINE_NS // cost, side.most // growth)


def _plain_bytes(weight: Weight, side: Side) -> int:
    """The bytes up to which the values of a text need no count: an object takes three bytes with its comma, a value two."""
    cost = BYTE_NS + weight.value_ns // 2 + weight.object_ns // 3 + 1
    growth = 1 + weight.growth // 2 + weight.zero_bytes // 3 + 1
    return min(side.values, INLINE_NS // cost, _ROOM_BYTES // growth, _ROOM_FIELDS // (1 + weight.fields // 3))


# Each way is a closure, since it runs at every call.


def input_reader(types: JsonTypes, item: str, bounds: Bounds, elsewhere: Elsewhere | None) -> Way:
    side = Side(bounds, Direction.IN)
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


def output_writer(types: JsonTypes, item: str, many: bool, wrapped: bool, bounds: Bounds) -> WriterTo:
    """Makes the ways out: all of them have one decoder."""
    side = Side(bounds, Direction.OUT)
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

    def to(elsewhere: Elsewhere | None) -> Way:
        measured = _measured(types.rules, item, many, weight, side, decode, encode, elsewhere)

        def write(payload: bytes, deadline: float = _NEVER) -> Any:
            if len(payload) <= safe and payload.isascii():
                try:
                    return encode(decode(payload))
                except (JsonError, *_REFUSALS):
                    pass
            return measured(payload or b"null", deadline)

        return write

    return to


def _measured(
    rules: JsonRules,
    item: str,
    many: bool,
    weight: Weight,
    side: Side,
    decode: Callable[[bytes], Any],
    encode: Callable[[Any], bytes],
    elsewhere: Elsewhere | None,
) -> Way:
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


def nothing(side: Side, elsewhere: Elsewhere | None, plain: tuple[bytes, ...]) -> Way:
    """What a method without input, or without output, does with a text: it has to be JSON, of an input an object."""

    def answer_nothing(text: bytes, deadline: float = _NEVER) -> Any:
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

    return answer_nothing
