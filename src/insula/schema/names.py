"""Names: which identifiers a schema may use, and the names that are made from them.

The JSON spelling of a field is protoc's (`first_name` -> `firstName`). The message that carries a bare return value is
`<Method>Response`. The zero value of an enum is `<ENUM>_UNSPECIFIED`, the enum's name in capitals as the public okra
tool writes it, so a descriptor made there and one made here agree.
"""

from __future__ import annotations

import re
from functools import lru_cache

from insula.schema.scalars import SCALARS

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
MAX_IDENTIFIER = 128

#: First words of a namespace that are routes, JSON-RPC methods or packages of this server and its libraries.
RESERVED_NAMESPACES = frozenset({"grpc", "rpc", "apps", "config", "identity", "pairing", "status", "insula"})

#: GraphQL's own literals can be no enum value.
RESERVED_VALUES = frozenset({"true", "false", "null"})

_AFTER_UNDERSCORE = re.compile(r"_+(.?)")


def is_identifier(name: str) -> bool:
    """Whether a type, field, method, enum value or part of a namespace may be called this."""
    return len(name) <= MAX_IDENTIFIER and IDENTIFIER.fullmatch(name) is not None and not name.startswith("__")


@lru_cache(maxsize=4096)
def json_name(field: str) -> str:
    """The lowerCamelCase spelling of a field in proto3 JSON, exactly as protoc makes it."""
    return _AFTER_UNDERSCORE.sub(lambda match: match[1].upper(), field)


def response_message(method: str) -> str:
    """The message that carries the answer of a method which returns a scalar, an enum or a list."""
    return f"{method[:1].upper()}{method[1:]}Response"


def unspecified(enum: str) -> str:
    """The name of an enum's value 0."""
    return f"{enum.upper()}_UNSPECIFIED"


def pascal_value(enum: str, value: str) -> str:
    """An enum value as generated code calls it: the enum's name taken off its front, the rest in PascalCase.

    Protobuf refuses two values of one enum for which this is the same.
    """
    rest = value
    wanted = enum.replace("_", "").lower()
    taken = 0
    for position, letter in enumerate(value):
        if letter == "_":
            continue
        if taken == len(wanted):
            rest = value[position:]
            break
        if letter.lower() != wanted[taken]:
            break
        taken += 1
    return "".join(part[:1].upper() + part[1:].lower() for part in rest.split("_"))


def split_list(type_name: str) -> tuple[str, bool]:
    """`[T]` or `T[]` -> (`T`, True); `T` -> (`T`, False)."""
    if type_name.startswith("[") and type_name.endswith("]"):
        return type_name[1:-1], True
    if type_name.endswith("[]"):
        return type_name[:-2], True
    return type_name, False


def is_scalar(name: str) -> bool:
    """Whether this is a scalar of the IDL."""
    return name in SCALARS
