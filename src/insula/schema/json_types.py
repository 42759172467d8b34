"""msgspec types made from a schema: the plain case of a call's JSON is read by one decode and written by one encode.

A message becomes a struct class whose encoded names are those of the receiver. What the types refuse goes to
`json_walk`, which has the last word, so they are strict and hold only what is quick:

- a required field has a default factory, which makes msgspec write it even where it is zero; an optional one has the
  default None, which it then leaves out;
- a field with two spellings has a second slot that is only read; a Long, a Timestamp and such a field are finished in
  `__post_init__`, and a message that has none of them has no `__post_init__`;
- a message with neither a Long nor a second spelling in it, however deep, is the same in both directions, and has one
  class.

The attributes are called f0, f1 …, whatever the fields are called, since a field may be called `class` or `__init__`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from insula.schema.json_scalars import (
    EPOCH,
    FLOAT32_MAX,
    INT32,
    INT64,
    read_int64,
    read_timestamp,
    write_int64,
)
from insula.schema.json_walk import Direction, JsonRules
from insula.schema.model import Field
from insula.schema.names import json_name, split_list, unspecified
from insula.schema.scalars import SCALARS, Kind

Convert = Callable[[Any], Any]

_LONG = Annotated[int, Meta(ge=INT64[0], le=INT64[1])]
_TYPES: dict[Kind, Any] = {
    Kind.STRING: str,
    Kind.INT32: Annotated[int, Meta(ge=INT32[0], le=INT32[1])],
    Kind.INT64: _LONG | str,
    Kind.FLOAT32: Annotated[float, Meta(ge=-FLOAT32_MAX, le=FLOAT32_MAX)],
    Kind.FLOAT64: float,
    Kind.BOOLEAN: bool,
    Kind.BYTES: bytes,
    Kind.TIMESTAMP: str,
}
# A factory, never a plain default: msgspec leaves out a field that has its default.
_ZEROS: dict[Kind, Callable[[], Any]] = {
    Kind.STRING: str,
    Kind.INT32: int,
    Kind.INT64: int,
    Kind.FLOAT32: float,
    Kind.FLOAT64: float,
    Kind.BOOLEAN: bool,
    Kind.BYTES: bytes,
    Kind.TIMESTAMP: partial(str, EPOCH),
}


def _list_of(annotation: Any) -> Any:
    return list[annotation]


def _no_items() -> list[Any]:
    # not `list` itself: msgspec leaves out an empty list whose factory is that
    return []


class JsonTypes:
    """The types of one schema, each made when a method first needs it and shared by all of them."""

    __slots__ = ("_classes", "_two_sided", "rules")

    def __init__(self, rules: JsonRules) -> None:
        self.rules = rules
        self._classes: dict[tuple[str, Direction], type[msgspec.Struct]] = {}
        self._two_sided = _two_sided(rules)

    def prepare(self, items: Iterable[str], pause: Callable[[], None]) -> None:
        """Makes the types that `items` reach, a few at a time: `pause` is called in between. The decoder of a message has
        then nothing left to do but for messages that form a ring."""
        for item in items:
            if item in self.rules.types:
                for direction in Direction:
                    self._class(item, direction, pause)
        for name in leaves_first(self.rules):
            for direction in Direction:
                made = self._classes.get((name, direction))
                if made is not None:
                    msgspec.json.Decoder(made)
                    pause()

    def decoder(self, item: str, many: bool, direction: Direction) -> tuple[msgspec.json.Decoder[Any], Convert | None]:
        """A decoder of one value, and what finishes the decoded value where it is not a message."""
        annotation = self._annotation(item, direction)
        decoder = msgspec.json.Decoder(_list_of(annotation) if many else annotation)
        return decoder, _convert(self.rules, item, many, direction)

    def _annotation(self, item: str, direction: Direction) -> Any:
        if item in self.rules.types:
            return self._class(item, direction)
        return self._leaf(item)

    def _leaf(self, item: str) -> Any:
        values = self.rules.enums.get(item)
        if values is not None:
            return Literal[(unspecified(item), *(value.name for value in values.values))]
        return _TYPES[SCALARS[item].kind]

    def _class(self, name: str, direction: Direction, pause: Callable[[], None] = lambda: None) -> type[msgspec.Struct]:
        """The class of a message. All that it reaches are made first and then told of each other: they may be a ring."""
        if name not in self._two_sided:
            direction = Direction.IN
        made: list[str] = []
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if (one, self._side(one, direction)) in self._classes:
                continue
            self._classes[one, self._side(one, direction)] = self._bare(one, direction)
            made.append(one)
            pause()
            for field in self.rules.types[one].fields:
                item, _ = split_list(field.type)
                if item in self.rules.types:
                    waiting.append(item)
        for one in made:
            self._fill(one, direction)
            pause()
        return self._classes[name, self._side(name, direction)]

    def _side(self, name: str, direction: Direction) -> Direction:
        return direction if name in self._two_sided else Direction.IN

    def _bare(self, name: str, direction: Direction) -> type[msgspec.Struct]:
        kind = self.rules.types[name]
        fields: list[tuple[str, Any, Any]] = []
        finish: list[tuple[str, str | None, Convert | None, Callable[[], Any] | None]] = []
        for place, field in enumerate(kind.fields):
            spelt = json_name(field.name)
            sent, other = (field.name, spelt) if direction is Direction.IN else (spelt, field.name)
            item, many = split_list(field.type)
            zero = self._zero(field, direction) if field.required else None
            convert = _convert(self.rules, item, many, direction)
            if sent == other:
                default = (
                    msgspec.field(name=sent, default=None)
                    if zero is None
                    else (msgspec.field(name=sent, default_factory=zero))
                )
                fields.append((f"f{place}", Any, default))
                if convert is not None:
                    finish.append((f"f{place}", None, convert, None))
            else:
                fields.append((f"f{place}", Any, msgspec.field(name=sent, default=UNSET)))
                fields.append((f"a{place}", Any, msgspec.field(name=other, default=UNSET)))
                finish.append((f"f{place}", f"a{place}", convert, zero))
        namespace = {"__post_init__": _finisher(tuple(finish))} if finish else {}
        return msgspec.defstruct(name, fields, namespace=namespace, omit_defaults=True, gc=False, module=__name__)

    def _zero(self, field: Field, direction: Direction) -> Callable[[], Any]:
        item, many = split_list(field.type)
        if many:
            return _no_items
        if item in self.rules.types:
            # by a look-up, as the class may not be there yet; required messages never form a ring
            return partial(self._make, item, self._side(item, direction))
        if item in self.rules.enums:
            return partial(str, unspecified(item))
        return _ZEROS[SCALARS[item].kind]

    def _make(self, name: str, side: Direction) -> msgspec.Struct:
        return self._classes[name, side]()

    def _fill(self, name: str, direction: Direction) -> None:
        """The true annotations: msgspec reads them when the first decoder is made, which is after this."""
        annotations = self._classes[name, self._side(name, direction)].__annotations__
        for place, field in enumerate(self.rules.types[name].fields):
            item, many = split_list(field.type)
            annotation: Any = (
                self._classes[item, self._side(item, direction)] if item in self.rules.types else self._leaf(item)
            )
            if many:
                annotation = _list_of(annotation)
            if not field.required:
                annotation = annotation | None
            if f"a{place}" in annotations:
                annotations[f"a{place}"] = annotation = annotation | UnsetType
            annotations[f"f{place}"] = annotation


def _finisher(
    fields: tuple[tuple[str, str | None, Convert | None, Callable[[], Any] | None], ...],
) -> Callable[[msgspec.Struct], None]:
    def finish(self: msgspec.Struct) -> None:
        for name, other, convert, zero in fields:
            value = getattr(self, name)
            if other is not None:
                second = getattr(self, other)
                if second is not UNSET and second is not None:
                    if value is not UNSET and value is not None:
                        raise ValueError("given twice")
                    value = second
                if value is UNSET or value is None:
                    value = UNSET if zero is None else zero()
                setattr(self, other, UNSET)
                setattr(self, name, value)
            if convert is not None and value is not None and value is not UNSET:
                setattr(self, name, convert(value))

    return finish


def _convert(rules: JsonRules, item: str, many: bool, direction: Direction) -> Convert | None:
    """What msgspec's types leave to be done to a value."""
    if item in rules.types or item in rules.enums:
        return None
    kind = SCALARS[item].kind
    one: Convert
    if kind is Kind.INT64:
        one = read_int64 if direction is Direction.IN else write_int64
    elif kind is Kind.TIMESTAMP:
        one = read_timestamp
    else:
        return None
    return partial(_each, one) if many else one


def _each(convert: Convert, items: list[Any]) -> list[Any]:
    return [convert(item) for item in items]


def _two_sided(rules: JsonRules) -> frozenset[str]:
    """The messages that look different to the guest and to the client, by themselves or by one inside them."""
    holders: dict[str, list[str]] = {name: [] for name in rules.types}
    found: list[str] = []
    for name, kind in rules.types.items():
        for field in kind.fields:
            item, _ = split_list(field.type)
            if item in rules.types:
                holders[item].append(name)
            elif item in SCALARS and SCALARS[item].kind is Kind.INT64:
                found.append(name)
        if any(json_name(field.name) != field.name for field in kind.fields):
            found.append(name)
    reached = set(found)
    while found:
        for holder in holders[found.pop()]:
            if holder not in reached:
                reached.add(holder)
                found.append(holder)
    return frozenset(reached)


def leaves_first(rules: JsonRules) -> list[str]:
    """The messages in an order in which each stands behind those in it; messages in a ring, and what holds them, last."""
    return _sorted_out(rules)[0]


def fields_in_rings(rules: JsonRules) -> int:
    """The fields of all messages that are part of a ring, or between two rings: their types are made in one go."""
    return sum(len(rules.types[name].fields) for name in _sorted_out(rules)[1])


def _sorted_out(rules: JsonRules) -> tuple[list[str], set[str]]:
    inside = {
        name: {item for field in kind.fields if (item := split_list(field.type)[0]) in rules.types}
        for name, kind in rules.types.items()
    }
    holders: dict[str, set[str]] = {name: set() for name in inside}
    for name, items in inside.items():
        for item in items:
            holders[item].add(name)
    order = _peeled(inside, holders)
    peeled = set(order)
    core = inside.keys() - peeled
    core -= set(_peeled({name: holders[name] & core for name in core}, {name: inside[name] & core for name in core}))
    return [*order, *(name for name in inside if name not in peeled)], core


def _peeled(inside: dict[str, set[str]], holders: dict[str, set[str]]) -> list[str]:
    """The names that hold none but names before them."""
    open_ = {name: len(items) for name, items in inside.items()}
    order = [name for name, count in open_.items() if not count]
    for name in order:
        for holder in holders[name]:
            open_[holder] -= 1
            if not open_[holder]:
                order.append(holder)
    return order
