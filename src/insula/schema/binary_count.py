"""How many fields and items a protobuf message has, counted before anything is decoded.

The message counts, every field in it, known or not, and every item of a packed list. A message inside is looked into where
the schema says that it is one; what is unknown is one field, however long. The count ends where the bytes are no protobuf,
and says nothing of it: the decoder refuses those.
"""

from __future__ import annotations

from typing import NamedTuple

from insula.schema.model import Schema
from insula.schema.names import split_list
from insula.schema.protowire import read_varint
from insula.schema.scalars import SCALARS, TIMESTAMP_MESSAGE

_CONTINUED = bytes(range(128, 256))
_WIDTHS = {"double": 8, "float": 4, "int64": 0, "int32": 0, "bool": 0}


class _Fields(NamedTuple):
    """Of one message: the messages inside by field number, and the bytes of an item of each packed list (0: a varint)."""

    messages: dict[int, str]
    packed: dict[int, int]


class FieldCount:
    """Counts the fields of messages of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._fields: dict[str, _Fields] = {TIMESTAMP_MESSAGE: _Fields({}, {})}
        names = {kind.name for kind in schema.types}
        for kind in schema.types:
            fields = self._fields[kind.name] = _Fields({}, {})
            for number, field in enumerate(kind.fields, 1):
                item, many = split_list(field.type)
                protobuf = SCALARS[item].protobuf if item in SCALARS else ""
                if item in names:
                    fields.messages[number] = item
                elif protobuf == TIMESTAMP_MESSAGE:
                    fields.messages[number] = TIMESTAMP_MESSAGE
                elif many and (not protobuf or protobuf in _WIDTHS):
                    fields.packed[number] = _WIDTHS.get(protobuf, 0)

    def exceeds(self, name: str, body: bytes, most: int) -> bool:
        """True if a message of this type (of none: "") has more than `most` fields and items."""
        if len(body) < most:
            return False
        nothing = _Fields({}, {})
        fields = self._fields.get(name, nothing)
        outer: list[tuple[int, _Fields]] = []
        at, end, groups, count = 0, len(body), 0, 1
        try:
            while True:
                while at >= end:
                    if not outer:
                        return False
                    end, fields = outer.pop()
                tag, at = read_varint(body, at)
                count += 1
                if count > most:
                    return True
                wire = tag & 7
                if wire == 0:
                    _, at = read_varint(body, at)
                elif wire == 1:
                    at += 8
                elif wire == 5:
                    at += 4
                elif wire == 3:
                    groups += 1
                elif wire == 4:
                    groups -= 1
                    count -= 1  # the end of what was counted at its beginning
                    if groups < 0:
                        return False
                elif wire == 2:
                    size, at = read_varint(body, at)
                    number = tag >> 3
                    stop = at + size
                    if stop > end:
                        return False
                    inner = None if groups else fields.messages.get(number)
                    width = None if groups else fields.packed.get(number)
                    if inner is not None:
                        if len(outer) > 200:
                            return False
                        outer.append((end, fields))
                        end, fields = stop, self._fields[inner]
                        continue
                    if width is not None:
                        items = size // width if width else len(body[at:stop].translate(None, _CONTINUED))
                        count += items
                        if count > most:
                            return True
                    at = stop
                else:
                    return False
        except IndexError:
            return False
