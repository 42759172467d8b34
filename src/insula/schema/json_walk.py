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
import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any

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
from insula.schema.model import Enum, Field, Schema, Type
from insula.schema.names import json_name, split_list, unspecified
from insula.schema.scalars import SCALARS, Kind

#: Levels of objects and lists in a JSON text: a hundred messages, the limit of protobuf, each in a list.
MAX_DEPTH = 200
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


class JsonRules:
    """The types of one schema, by name, and how a value of each is read."""

    __slots__ = ("enums", "types")

    def __init__(self, schema: Schema) -> None:
        self.types: dict[str, Type] = {kind.name: kind for kind in schema.types}
        self.enums: dict[str, Enum] = {kind.name: kind for kind in schema.enums}

    def read(self, text: bytes, item: str, many: bool, direction: Direction) -> Any:
        """The normalised value of a JSON text, ready to be encoded. JsonError where it does not fit."""
        value = parse(text)
        if value is None and direction is Direction.OUT:
            return [] if many else self.zero(item, direction)
        return self._list("$", value, item, direction, "") if many else self._item("$", value, item, direction, "")

    def zero(self, item: str, direction: Direction) -> Any:
        """What stands for a required value that was left out."""
        if item in self.types:
            return self._message("$", {}, self.types[item], direction)
        if item in self.enums:
            return unspecified(item)
        match SCALARS[item].kind:
            case Kind.INT64:
                return 0 if direction is Direction.IN else "0"
            case Kind.TIMESTAMP:
                return EPOCH
            case kind:
                return _ZEROS[kind]

    def _item(self, path: str, value: Any, item: str, direction: Direction, declared: str) -> Any:
        kind = self.types.get(item)
        if kind is not None:
            if type(value) is not dict:
                raise JsonError(path, f"expected an object, got {_called(value)}", declared)
            return self._message(path, value, kind, direction)
        values = self.enums.get(item)
        if values is not None:
            return _enum_name(path, value, values, declared)
        return _scalar(path, value, SCALARS[item].kind, direction, declared)

    def _list(self, path: str, value: Any, item: str, direction: Direction, declared: str) -> list[Any]:
        if type(value) is not list:
            raise JsonError(path, f"expected a list, got {_called(value)}", declared)
        return [self._item(f"{path}[{place}]", one, item, direction, declared) for place, one in enumerate(value)]

    def _message(self, path: str, value: dict[str, Any], kind: Type, direction: Direction) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for field in kind.fields:
            given = self._given(path, value, field)
            name = field.name if direction is Direction.IN else json_name(field.name)
            item, many = split_list(field.type)
            if given is None:
                if field.required:
                    out[name] = [] if many else self.zero(item, direction)
                continue
            declared = f"{kind.name}.{field.name} is declared {field.type}{'!' if field.required else ''}"
            read: Callable[[str, Any, str, Direction, str], Any] = self._list if many else self._item
            out[name] = read(f"{path}.{field.name}", given, item, direction, declared)
        return out

    @staticmethod
    def _given(path: str, value: dict[str, Any], field: Field) -> Any:
        other = json_name(field.name)
        given = value.get(field.name)
        if other == field.name:
            return given
        if given is not None and value.get(other) is not None:
            raise JsonError(f"{path}.{field.name}", f"given twice, as {field.name} and as {other}")
        return value.get(other) if given is None else given


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
        if too_deep(text):
            raise JsonError("$", f"the JSON nests deeper than {MAX_DEPTH} levels")
        return json.loads(decoded, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise JsonError("$", f"not JSON: {error.msg[:1].lower()}{error.msg[1:]} at character {error.pos}") from None
    except RecursionError:
        raise JsonError("$", "the JSON nests too deeply") from None


def check_text(text: bytes) -> None:
    """Refuses a JSON text that has a byte which is not UTF-8 anywhere, also where no field is read."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise JsonError("$", f"invalid UTF-8 at byte {error.start}") from None


def too_deep(text: bytes) -> bool:
    """Whether the JSON nests deeper than MAX_DEPTH. Exact for JSON; what is not JSON may be called too deep."""
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRINGS.sub(b"", text).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH


#: A string, also one that never ends: so every byte is looked at once, whatever the text is.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = [{"[": 1, "{": 1, "]": -1, "}": -1}.get(chr(byte), 0) for byte in range(256)]


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


def _enum_name(path: str, value: Any, values: Enum, declared: str) -> str:
    zero = unspecified(values.name)
    if isinstance(value, Number):
        try:
            place = read_integer(value, INT32)
        except ValueError:
            place = -1
        if 0 <= place <= len(values.values):
            return values.values[place - 1].name if place else zero
    elif isinstance(value, str) and (value == zero or any(one.name == value for one in values.values)):
        return value
    raise JsonError(path, f"expected one of {_names(values)}, got {_called(value)} that is none of them", declared)


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
