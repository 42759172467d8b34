"""The schema model: what an IDL says, and exactly what `service.description.json` holds.

The field names of the JSON are those of the okra tool (camelCase). Decoding is lenient about what other tools leave out
(a missing `doc` is ""), never about a wrong type.
"""

from __future__ import annotations

from typing import Any

import msgspec

from insula.errors import PackageError


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


class EnumValue(msgspec.Struct, frozen=True):
    name: str
    doc: str = ""


class Enum(msgspec.Struct, frozen=True):
    name: str
    doc: str = ""
    values: tuple[EnumValue, ...] = ()


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
    name: str
    doc: str = ""
    namespace: str = ""
    version: str = ""
    methods: tuple[Method, ...] = ()


class Meta(msgspec.Struct, frozen=True):
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
