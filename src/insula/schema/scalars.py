"""The scalars of the IDL: one table that says what each becomes in protobuf, in JSON and in GraphQL.

Nothing else in the server knows a scalar by name. A scalar whose JSON kind is `STRING` is carried as the text that was
sent: a Date, a Decimal or a URL is the guest's to judge.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Kind(enum.Enum):
    """How a scalar looks in JSON, and by which rules it is read."""

    STRING = "a string"
    INT32 = "a whole number of 32 bits"
    INT64 = "a whole number of 64 bits"
    FLOAT32 = "a number"
    FLOAT64 = "a number of 64 bits"
    BOOLEAN = "true or false"
    BYTES = "base64 text"
    TIMESTAMP = "an RFC 3339 timestamp"


class Scalar(NamedTuple):
    """One row. `protobuf` is the type's name in a .proto file, `graphql` the scalar of the GraphQL schema."""

    kind: Kind
    protobuf: str
    graphql: str


TIMESTAMP_MESSAGE = "google.protobuf.Timestamp"
EMPTY_MESSAGE = "google.protobuf.Empty"

_TEXT = Scalar(Kind.STRING, "string", "String")
_INSTANT = Scalar(Kind.TIMESTAMP, TIMESTAMP_MESSAGE, "String")

SCALARS: dict[str, Scalar] = {
    "String": _TEXT,
    "ID": Scalar(Kind.STRING, "string", "ID"),
    "UUID": _TEXT,
    "URL": _TEXT,
    "Decimal": _TEXT,
    "BigInt": _TEXT,
    "Currency": _TEXT,
    "Date": _TEXT,
    "Duration": _TEXT,
    "Int": Scalar(Kind.INT32, "int32", "Int"),
    "Long": Scalar(Kind.INT64, "int64", "Long"),
    "Float": Scalar(Kind.FLOAT32, "float", "Float"),
    "Double": Scalar(Kind.FLOAT64, "double", "Float"),
    "Boolean": Scalar(Kind.BOOLEAN, "bool", "Boolean"),
    "Bytes": Scalar(Kind.BYTES, "bytes", "String"),
    "Time": _INSTANT,
    "DateTime": _INSTANT,
    "Timestamp": _INSTANT,
}
