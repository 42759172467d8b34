"""The schema model: what an IDL says, and what `service.description.json` holds.

The field names of the JSON are those of the okra tool (camelCase); `directives` of a type, an enum and an enum value are
added, and other readers pass over them. Decoding is lenient about what other tools leave out (a missing `doc` is ""),
never about a wrong type. A list is written `[T]`; `T[]`, which the okra tool writes, is read as well.
"""

from __future__ import annotations

from typing import Any

import msgspec

from insula.errors import PackageError
from insula.schema.names import split_list


class Directive(msgspec.Struct, frozen=True):
    """`@auth(roles: ["admin"])` -> name `auth`, args `{"roles": ["admin"]}`."""

    name: str
    args: dict[str, Any] = {}
    doc: str = ""


class Field(msgspec.Struct, frozen=True):
    """One field of a type. `type` is a name or, for a list, `[T]` (`T[]` is read as well); no `!` in it."""

    name: str
    type: str
    required: bool = False
    directives: tuple[Directive, ...] = ()
    doc: str = ""


class Type(msgspec.Struct, frozen=True):
    """One message type; the number of a field in protobuf is its place here, from 1."""

    name: str
    doc: str = ""
    fields: tuple[Field, ...] = ()
    directives: tuple[Directive, ...] = ()


class EnumValue(msgspec.Struct, frozen=True):
    """One value of an enum; its number in protobuf is its place, from 1."""

    name: str
    doc: str = ""
    directives: tuple[Directive, ...] = ()


class Enum(msgspec.Struct, frozen=True):
    """One enum; the value 0, which the schema does not write, is `<NAME>_UNSPECIFIED`."""

    name: str
    doc: str = ""
    values: tuple[EnumValue, ...] = ()
    directives: tuple[Directive, ...] = ()


class Method(msgspec.Struct, frozen=True, rename="camel"):
    """One method. `input_type` is "" where it takes nothing; `output_type` may be a scalar, an enum or a list."""

    name: str
    input_type: str = ""
    output_type: str = ""
    directives: tuple[Directive, ...] = ()
    doc: str = ""

    def directive(self, name: str) -> Directive | None:
        """The first directive with this name."""
        return next((directive for directive in self.directives if directive.name == name), None)


class Service(msgspec.Struct, frozen=True):
    """The service; a method's number at the guest is its index in `methods`."""

    name: str
    doc: str = ""
    namespace: str = ""
    version: str = ""
    methods: tuple[Method, ...] = ()


class Meta(msgspec.Struct, frozen=True):
    """What `@okra(...)` says of the whole package."""

    namespace: str = ""
    version: str = ""
    service: str = ""


class Schema(msgspec.Struct, frozen=True):
    """The whole of one package's IDL. Its service is `services[0]`; its namespace and version stand in `meta` too."""

    types: tuple[Type, ...] = ()
    enums: tuple[Enum, ...] = ()
    services: tuple[Service, ...] = ()
    meta: Meta = Meta()

    @property
    def service(self) -> Service:
        """The package's service."""
        return self.services[0]

    @property
    def namespace(self) -> str:
        return self.service.namespace or self.meta.namespace

    @property
    def version(self) -> str:
        return self.service.version or self.meta.version or "v1"

    def is_message(self, name: str) -> bool:
        """Whether this is one of the schema's types (not a scalar, an enum or a list)."""
        return any(kind.name == name for kind in self.types)

    def wrapped(self, method: Method) -> Field | None:
        """The field `response` of `<Method>Response`, for a method that returns a scalar, an enum or a list.

        None where the answer is a message of the schema already, or nothing. Of a `@stream` it is about one item.
        """
        item, many = split_list(method.output_type)
        if method.directive("stream") is not None:
            many = False
        if not item or (self.is_message(item) and not many):
            return None
        return Field("response", f"[{item}]" if many else item, required=True)


_decoder = msgspec.json.Decoder(Schema)
_encoder = msgspec.json.Encoder()


def read_description(data: bytes) -> Schema:
    """The schema in a `service.description.json`; PackageError naming the path of what is wrong."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise PackageError(
            f"service.description.json is not a description: {error}",
            hint="it is written by `insula build`; build the package again",
        ) from error


def write_description(schema: Schema) -> bytes:
    """The description as indented JSON, the same bytes for the same schema."""
    return msgspec.json.format(_encoder.encode(schema), indent=2) + b"\n"
