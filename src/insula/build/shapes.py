"""What a schema means to generated code: each type name as one shape, whatever the language.

A shape says how a value is held and how it stands in JSON. The scalars that are text on every wire (dates, UUIDs,
decimals) are text in a service too: the host has checked them, and a service that wants more parses them itself.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from insula.errors import PackageError
from insula.schema import scalars
from insula.schema.model import Enum, Field, Method, Schema, Type
from insula.schema.names import split_list


class Kind(enum.Enum):
    """How a value is held."""

    STRING = "string"
    INT32 = "int32"
    INT64 = "int64"
    DOUBLE = "double"
    BOOL = "bool"
    BYTES = "bytes"
    ENUM = "enum"
    MESSAGE = "message"


_HELD = {
    scalars.Kind.STRING: Kind.STRING,
    scalars.Kind.TIMESTAMP: Kind.STRING,
    scalars.Kind.INT32: Kind.INT32,
    scalars.Kind.INT64: Kind.INT64,
    scalars.Kind.FLOAT32: Kind.DOUBLE,
    scalars.Kind.FLOAT64: Kind.DOUBLE,
    scalars.Kind.BOOLEAN: Kind.BOOL,
    scalars.Kind.BYTES: Kind.BYTES,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """One type: its kind, the name of its enum or message (else ""), and whether it is a list of that."""

    kind: Kind
    name: str = ""
    is_list: bool = False

    @property
    def item(self) -> Shape:
        """The shape of one item of the list."""
        return Shape(self.kind, self.name)


class Shapes:
    """The shapes of one schema's type names, and its types in an order in which each can be declared."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._enums = {enum.name: enum for enum in schema.enums}
        self._types = {type_.name: type_ for type_ in schema.types}

    def of(self, written: str) -> Shape:
        """The shape of a type as the model writes it: a name, `[T]` or `T[]`."""
        name, is_list = split_list(written)
        if name in self._types:
            return Shape(Kind.MESSAGE, name, is_list)
        if name in self._enums:
            return Shape(Kind.ENUM, name, is_list)
        if name in scalars.SCALARS:
            return Shape(_HELD[scalars.SCALARS[name].kind], "", is_list)
        raise PackageError(
            f"the schema names the type {written!r}, which it does not define",
            hint=f"define it, or use one of {', '.join(sorted(scalars.SCALARS))}; a list holds no lists",
        )

    def embeds(self, field: Field) -> str | None:
        """The message that a field holds within itself: a required one that is no list."""
        shape = self.of(field.type)
        return shape.name if shape.kind is Kind.MESSAGE and field.required and not shape.is_list else None

    def ordered(self) -> list[Type]:
        """The types, each after those that it embeds; PackageError where a type embeds itself."""
        done: dict[str, Type] = {}
        for type_ in self.schema.types:
            self._order(type_, done, [])
        return list(done.values())

    def _order(self, type_: Type, done: dict[str, Type], path: list[str]) -> None:
        if type_.name in path:
            chain = " -> ".join([*path[path.index(type_.name) :], type_.name])
            raise PackageError(
                f"a value of {type_.name} could never end, as it always holds another one: {chain}",
                hint="leave out the `!` of one of these fields",
            )
        if type_.name in done:
            return
        for field in type_.fields:
            embedded = self.embeds(field)
            if embedded is not None:
                self._order(self._types[embedded], done, [*path, type_.name])
        done[type_.name] = type_

    def item_lists(self, kinds: Iterable[Kind]) -> list[Shape]:
        """The list shapes of these kinds that the schema uses, each once, in the order of their first use."""
        wanted = set(kinds)
        written = [field.type for type_ in self.schema.types for field in type_.fields]
        written += [method.output_type for method in self.methods if method.output_type]
        shapes = dict.fromkeys(self.of(name) for name in written)
        return [shape for shape in shapes if shape.is_list and shape.kind in wanted]

    @property
    def methods(self) -> tuple[Method, ...]:
        return self.schema.service.methods

    @property
    def names(self) -> list[str]:
        """The names of all types and enums."""
        return [*self._types, *self._enums]

    @property
    def enums(self) -> tuple[Enum, ...]:
        return self.schema.enums


class Names:
    """Identifiers that do not clash: with one another, nor with the words of a language."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self._taken = set(reserved)

    def take(self, wanted: str) -> str:
        """`wanted`, with as many `_` behind it as it takes to be free."""
        while wanted in self._taken:
            wanted += "_"
        self._taken.add(wanted)
        return wanted
