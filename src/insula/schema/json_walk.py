"""Reading a JSON value by the schema, step by step: the rules in full, and the error that names the field.

Most calls never come here: `json_types` reads the plain case in one go and is only a faster spelling of these rules.
Whatever it cannot read, because it is wrong or because it is one of proto3 JSON's other spellings (a number in a string,
an enum's number, base64 without padding, null for a zero), is read here, and this decides.

The rules, for a value of the client (`Direction.IN`) and of the guest (`Direction.OUT`) alike:

- a field is taken by its IDL name or its JSON name, both at once is refused; an unknown field is passed over;
- null is the same as left out; a required field that is left out is its zero value, an optional one stays out;
- an element of a list is never null; a list that was sent empty is there, and empty;
- an enum is a name of the IDL, `<ENUM>_UNSPECIFIED`, or the number of either, and leaves as the name.

What differs: the guest gets IDL names and a Long as a number with all its digits, as C and Go read it; the client gets
JSON names and a Long as a string, as every protobuf library writes it.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from insula.schema.json_scalars import (
    EPOCH,
    FLOAT32_MAX,
    INT32,
    INT64,
    Number,
    read_bytes,
    read_float,
    read_integer,
    read_timestamp,
)
from insula.schema.json_weight import Weights
from insula.schema.model import Enum, Schema, Type
from insula.schema.names import json_name, split_list, unspecified
from insula.schema.scalars import SCALARS, Kind

#: How many names of an enum a message lists.
_SHOWN = 10


class Direction(enum.Enum):
    """Which way a value goes."""

    IN = "to the guest"
    OUT = "to the client"


class JsonError(Exception):
    """A value that does not fit. `path` is like `$.items[3].name`, in the IDL's spelling."""

    def __init__(self, path: str, expected: str, declared: str = "") -> None:
        super().__init__(f"{path}: {expected}")
        self.path = path
        self.expected = expected
        self.declared = declared


class TooLarge(Exception):  # noqa: N818 - the codec makes an error of it
    """What a text would become is larger than it may be."""


class _Table(NamedTuple):
    """The fields of a message as `_message` reads them: place by spelling, the fields, and for those that are required
    their places, zero values and bytes."""

    places: dict[str, int]
    fields: tuple[_Row, ...]
    required: tuple[tuple[int, Any, int], ...]
    zero: dict[str, Any]
    zero_bytes: int


class _Row(NamedTuple):
    idl_name: str
    other: str
    written: str
    item: str
    many: bool
    declared: str
    head: int


class Budget:
    """Bytes that may still be written: taken before each value is made, so that nothing larger is."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, size: int) -> None:
        """TooLarge where there is no room for `size` bytes more."""
        self.left -= size
        if self.left < 0:
            raise TooLarge


#: Texts up to this size (bytes) are written without `check_room`.
_UNASKED = 16 << 20


def check_room(size: int) -> None:
    """MemoryError where there is no memory to write a text of this size: the encoder, which takes some times as much while
    it grows, ends the process then."""
    if size > _UNASKED:
        bytearray(4 * size)


class JsonRules:
    """The types of one schema, by name, and how a value of each is read."""

    __slots__ = ("_names", "_tables", "_weights", "enums", "types")

    def __init__(self, schema: Schema) -> None:
        self.types: dict[str, Type] = {kind.name: kind for kind in schema.types}
        self.enums: dict[str, Enum] = {kind.name: kind for kind in schema.enums}
        self._names: dict[str, frozenset[str]] = {}
        self._tables: dict[tuple[str, Direction], _Table] = {}
        self._weights = {
            direction: Weights(self.types, self.enums, direction is Direction.IN) for direction in Direction
        }

    def weights(self, direction: Direction) -> Weights:
        """What values of the schema's types may cost."""
        return self._weights[direction]

    def read(self, text: bytes, item: str, many: bool, direction: Direction, most: int) -> Any:
        """The normalised value of a JSON text, ready to be encoded. JsonError where it does not fit, TooLarge where it
        would take more than `most` bytes; at most some times as much is made before that is seen. Zero values in it are
        shared."""
        budget = Budget(most)
        value = parse(text)
        if value is None and direction is Direction.OUT:
            return [] if many else self._zero(item, direction, budget)
        read = self._list if many else self._item
        out = read("$", value, item, direction, "", budget)
        check_room(most - budget.left)
        return out

    def _zero(self, item: str, direction: Direction, budget: Budget) -> Any:
        budget.take(self._weights[direction].zero_bytes(item))
        return self.zero(item, direction)

    def zero(self, item: str, direction: Direction) -> Any:
        """What stands for a required value that was left out."""
        if item in self.types:
            return self._table(item, direction).zero
        if item in self.enums:
            return unspecified(item)
        match SCALARS[item].kind:
            case Kind.INT64:
                return 0 if direction is Direction.IN else "0"
            case Kind.TIMESTAMP:
                return EPOCH
            case kind:
                return _ZEROS[kind]

    def _table(self, item: str, direction: Direction) -> _Table:
        table = self._tables.get((item, direction))
        if table is None:
            table = self._tables[item, direction] = self._made(self.types[item], direction)
        return table

    def _made(self, kind: Type, direction: Direction) -> _Table:
        weights = self._weights[direction]
        places: dict[str, int] = {}
        rows: list[_Row] = []
        required: list[tuple[int, Any, int]] = []
        for place, field in enumerate(kind.fields):
            written, other = weights.name(field), json_name(field.name)
            places[field.name] = places[other] = place
            item, many = split_list(field.type)
            declared = f"{kind.name}.{field.name} is declared {field.type}{'!' if field.required else ''}"
            rows.append(_Row(field.name, other, written, item, many, declared, len(written) + 4))
            if field.required:
                size = len(written) + 4 + weights.zero_bytes(item, many)
                required.append((place, [] if many else self.zero(item, direction), size))
        zero = {rows[place].written: value for place, value, _ in required}
        return _Table(places, tuple(rows), tuple(required), zero, weights.zero_bytes(kind.name))

    def _item(self, path: str, value: Any, item: str, direction: Direction, declared: str, budget: Budget) -> Any:
        if item in self.types:
            if type(value) is not dict:
                raise JsonError(path, f"expected an object, got {_called(value)}", declared)
            return self._message(path, value, self._table(item, direction), direction, budget)
        budget.take(len(value) if isinstance(value, str) and not isinstance(value, Number) else 1)
        values = self.enums.get(item)
        if values is not None:
            return self._enum_name(path, value, values, declared, budget)
        return _scalar(path, value, SCALARS[item].kind, direction, declared)

    def _list(self, path: str, value: Any, item: str, direction: Direction, declared: str, budget: Budget) -> list[Any]:
        if type(value) is not list:
            raise JsonError(path, f"expected a list, got {_called(value)}", declared)
        budget.take(len(value) + 1)
        return [
            self._item(f"{path}[{place}]", one, item, direction, declared, budget) for place, one in enumerate(value)
        ]

    def _message(
        self, path: str, value: dict[str, Any], table: _Table, direction: Direction, budget: Budget
    ) -> dict[str, Any]:
        """A message costs what it has and what it leaves out, never a look at all the fields that it might have."""
        if not value:
            budget.take(table.zero_bytes)
            return table.zero
        given: dict[int, Any] = {}
        for name, one in value.items():
            place = table.places.get(name)
            if place is not None and one is not None:
                if place in given:
                    row = table.fields[place]
                    raise JsonError(f"{path}.{row.idl_name}", f"given twice, as {row.idl_name} and as {row.other}")
                given[place] = one
        size, zeros = 1, {}
        for place, zero, cost in table.required:
            if place not in given:
                size += cost
                zeros[place] = zero
        budget.take(size)
        out: dict[str, Any] = {}
        for place in sorted((*given, *zeros)):
            row = table.fields[place]
            if place in zeros:
                out[row.written] = zeros[place]
                continue
            budget.take(row.head)
            read: Callable[[str, Any, str, Direction, str, Budget], Any] = self._list if row.many else self._item
            out[row.written] = read(f"{path}.{row.idl_name}", given[place], row.item, direction, row.declared, budget)
        return out

    def _enum_name(self, path: str, value: Any, values: Enum, declared: str, budget: Budget) -> str:
        zero = unspecified(values.name)
        if isinstance(value, Number):
            try:
                place = read_integer(value, INT32)
            except ValueError:
                place = -1
            if 0 <= place <= len(values.values):
                name = values.values[place - 1].name if place else zero
                budget.take(len(name))
                return name
        elif isinstance(value, str):
            known = self._names.get(values.name)
            if known is None:
                known = self._names[values.name] = frozenset((zero, *(one.name for one in values.values)))
            if value in known:
                return value
        raise JsonError(path, f"expected one of {_names(values)}, got {_called(value)} that is none of them", declared)


_ZEROS: dict[Kind, Any] = {
    Kind.STRING: "",
    Kind.BYTES: "",
    Kind.INT32: 0,
    Kind.FLOAT32: 0.0,
    Kind.FLOAT64: 0.0,
    Kind.BOOLEAN: False,
}


def parse(text: bytes) -> Any:
    """A JSON text with its numbers as `Number`; of two equal keys the last one counts."""
    try:
        # a byte that is not UTF-8 becomes a lone surrogate, and the string that holds it is refused by its path
        decoded = text.decode("utf-8", "surrogateescape")
        return json.loads(decoded, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise JsonError("$", f"not JSON: {error.msg[:1].lower()}{error.msg[1:]} at character {error.pos}") from None
    except RecursionError:
        raise JsonError("$", "the JSON nests too deeply") from None


def _scalar(path: str, value: Any, kind: Kind, direction: Direction, declared: str) -> Any:
    if isinstance(value, str) and not isinstance(value, Number) and not _is_text(value):
        raise JsonError(path, "invalid UTF-8, or half of a surrogate pair", declared)
    try:
        return _read_scalar(value, kind, direction)
    except ValueError as error:
        raise JsonError(path, f"expected {error}, got {_called(value)}", declared) from None


def _read_scalar(value: Any, kind: Kind, direction: Direction) -> Any:
    if kind is Kind.BOOLEAN:
        if not isinstance(value, bool):
            raise ValueError(kind.value)
        return value
    number = isinstance(value, Number)
    if not isinstance(value, str) or (number and kind in _TEXTS):
        raise ValueError(kind.value)
    match kind:
        case Kind.STRING:
            return value
        case Kind.INT32:
            return read_integer(value, INT32)
        case Kind.INT64:
            whole = read_integer(value, INT64)
            return whole if direction is Direction.IN else str(whole)
        case Kind.FLOAT32:
            return read_float(value, FLOAT32_MAX)
        case Kind.FLOAT64:
            return read_float(value, None)
        case Kind.BYTES:
            return read_bytes(value)
        case Kind.TIMESTAMP:
            return read_timestamp(value)
    raise AssertionError(kind)


_TEXTS = frozenset({Kind.STRING, Kind.BYTES, Kind.TIMESTAMP})


def _names(values: Enum) -> str:
    """The names of an enum, as many as somebody reads."""
    names = [one.name for one in values.values]
    return ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[:_SHOWN])} … (the values of {values.name})"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _called(value: Any) -> str:
    """What kind of value it is; never the value, as it may be a secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else "null"


def _refuse_constant(name: str) -> Any:
    raise JsonError("$", f"not JSON: {name} is no number there", "write it in quotes")
