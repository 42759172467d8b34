"""What a value of a type may cost, computed once from the schema: so that a text's size and counts bound what it becomes.

An object in a text can add at most the largest zero value that its type reaches (`zero_bytes`), a value at most `growth`
bytes. The costs in nanoseconds are measured upper bounds on an ordinary core of the time that the decoder and encoder take
for each byte, value and object; they decide where the work is done, never what its result is.
"""

from __future__ import annotations

from typing import NamedTuple

from insula.schema.json_scalars import EPOCH
from insula.schema.model import Enum, Field, Type
from insula.schema.names import json_name, split_list, unspecified
from insula.schema.scalars import SCALARS, Kind

#: Nanoseconds of a byte, of a value that msgspec reads and writes, of a field of an object, of one that Python finishes.
BYTE_NS = 2
VALUE_NS = 40
FIELD_NS = 60
FINISHED_NS = 300
#: Nanoseconds of a value that is read step by step.
STEP_NS = 3_000
#: Nanoseconds that the decoder takes for a number like 5e-324 or 1e300, or for one of as many digits.
LONG_NUMBER_NS = 22_000

#: Nanoseconds of a timestamp; each has a T.
TIME_NS = 1_600

_FINISHED = (Kind.INT64, Kind.TIMESTAMP)
#: Nanoseconds of a 64-bit number in a list; one in a field is FINISHED_NS.
_LISTED_NS = 400
#: Bytes of a double that JSON writes in one digit: 1e9 leaves as 1000000000.0.
_FLOAT_GROWTH = 24
_GROWTH = 8
_SCALAR_ZERO = {Kind.STRING: 2, Kind.BYTES: 2, Kind.INT32: 1, Kind.FLOAT32: 3, Kind.FLOAT64: 3, Kind.BOOLEAN: 5}


class Weight(NamedTuple):
    """The most that a value of an item, or of a type that the item reaches, may cost. `zero_bytes` and `fields` are those
    of the largest type: its own fields and those of its required messages. `floats` and `times` are true if the types have
    any."""

    zero_bytes: int
    fields: int
    growth: int
    value_ns: int
    object_ns: int
    floats: bool
    times: bool


class Weights:
    """The weights of one schema's types, for one direction: `to_guest` or to the client."""

    def __init__(self, types: dict[str, Type], enums: dict[str, Enum], to_guest: bool) -> None:
        self._types, self._enums, self._to_guest = types, enums, to_guest
        self._zero: dict[str, int] = {}
        self._fields: dict[str, int] = {}
        self._finished: dict[str, int] = {}

    def name(self, field: Field) -> str:
        """The name of a field in what is written."""
        return field.name if self._to_guest else json_name(field.name)

    def zero_bytes(self, item: str, many: bool = False) -> int:
        """Bytes of the zero value of an item, whole. Required messages never form a ring, and nest at most as deep as the
        schema check allows."""
        if many:
            return 2
        if item in self._enums:
            return len(unspecified(item)) + 2
        kind = self._types.get(item)
        if kind is None:
            scalar = SCALARS[item].kind
            if scalar is Kind.INT64:
                return 1 if self._to_guest else 3
            return len(EPOCH) + 2 if scalar is Kind.TIMESTAMP else _SCALAR_ZERO[scalar]
        known = self._zero.get(item)
        if known is None:
            fields = sum(
                len(self.name(field)) + 4 + self.zero_bytes(*split_list(field.type))
                for field in kind.fields
                if field.required
            )
            known = 1 + (fields or 1)
            self._zero[item] = known
        return known

    def _slots(self, item: str, counts: dict[str, int], finished: bool) -> int:
        known = counts.get(item)
        if known is None:
            kind = self._types[item]
            known = sum(not finished or self._is_finished(field) for field in kind.fields)
            for field in kind.fields:
                inner, many = split_list(field.type)
                if field.required and not many and inner in self._types:
                    known += self._slots(inner, counts, finished)
            counts[item] = known
        return known

    def _is_finished(self, field: Field) -> bool:
        inner, _ = split_list(field.type)
        return json_name(field.name) != field.name or (
            inner in SCALARS and SCALARS[inner].kind in _FINISHED and inner not in self._types
        )

    def of(self, item: str) -> Weight:
        """The weight of an item."""
        zero = fields = objects = 0
        growth, value = self._leaf(item, True)
        leaves = {item}
        seen = {item}
        todo = [item] if item in self._types else []
        while todo:
            name = todo.pop()
            zero = max(zero, self.zero_bytes(name))
            slots = self._slots(name, self._fields, finished=False)
            fields = max(fields, slots)
            objects = max(objects, slots * FIELD_NS + self._slots(name, self._finished, finished=True) * FINISHED_NS)
            for field in self._types[name].fields:
                inner, many = split_list(field.type)
                leaves.add(inner)
                grown, cost = self._leaf(inner, many)
                spelt = min(len(field.name), len(json_name(field.name)))
                growth = max(growth, grown + len(self.name(field)) - spelt)
                value = max(value, cost)
                if inner in self._types and inner not in seen:
                    seen.add(inner)
                    todo.append(inner)
        kinds = {SCALARS[leaf].kind for leaf in leaves if self._is_scalar(leaf)}
        floats = not kinds.isdisjoint((Kind.FLOAT32, Kind.FLOAT64))
        return Weight(zero, fields, growth, value, objects, floats, Kind.TIMESTAMP in kinds)

    def _is_scalar(self, item: str) -> bool:
        return item not in self._types and item not in self._enums

    def _leaf(self, item: str, many: bool) -> tuple[int, int]:
        """Bytes that a value of an item may grow by, and what one costs."""
        if not self._is_scalar(item):
            return 0, VALUE_NS
        kind = SCALARS[item].kind
        growth = _FLOAT_GROWTH if kind in (Kind.FLOAT32, Kind.FLOAT64) else _GROWTH
        return growth, VALUE_NS + (_LISTED_NS if many and kind is Kind.INT64 else 0)
