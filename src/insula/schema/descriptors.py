"""A schema -> protobuf's FileDescriptorSet, which says to gRPC, Connect and reflection what a service looks like.

The package is the namespace, the service and its methods have the schema's own names, so a method's path is
`/{namespace}.{Service}/{method}`. The number of a field is its place, from 1; a field without `!` is `optional`. A method
that takes or returns nothing has google.protobuf.Empty there; one that returns a scalar, an enum or a list returns
`<Method>Response { T response = 1; }`; `@stream` returns a stream of the list's items.

An enum starts with `<ENUM>_UNSPECIFIED = 0`, and its values keep the names that the IDL gives them, as those names are
what JSON carries. Protobuf puts the values of an enum into the scope around the enum, where two enums of one schema may
not both have a value ACTIVE. So an enum whose values find a name taken, by a type, the service or an enum before it,
is nested in a message of its own, `<Enum>Scope`; neither the binary form nor JSON is changed by that.

The set is whole: the imported files of google/protobuf are in it, byte for byte as protoc writes them.
"""

from __future__ import annotations

from insula.schema.model import Enum, Method, Schema, Type
from insula.schema.names import json_name, response_message, split_list, unspecified
from insula.schema.policy import is_read_only, is_stream
from insula.schema.protowire import block, number, text
from insula.schema.scalars import EMPTY_MESSAGE, SCALARS, TIMESTAMP_MESSAGE

# FieldDescriptorProto.Type and .Label
_SCALAR_TYPES = {"double": 1, "float": 2, "int64": 3, "int32": 5, "bool": 8, "string": 9, "bytes": 12}
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3
_NO_SIDE_EFFECTS = 1


def to_descriptor_set(schema: Schema) -> bytes:
    """The serialized FileDescriptorSet of a checked schema, with every file that it imports."""
    own = _file(schema)
    imported = _imports(schema)
    return b"".join(block(1, _GOOGLE_FILES[name]) for name in imported) + block(1, own)


def file_name(schema: Schema) -> str:
    """The name of the schema's own file in its descriptor set."""
    return f"{schema.namespace.replace('.', '/')}/{schema.version}/{schema.service.name}.proto"


def input_message(schema: Schema, method: Method) -> str:
    """The full name of the message that a method takes."""
    return f"{schema.namespace}.{method.input_type}" if method.input_type else EMPTY_MESSAGE


def output_message(schema: Schema, method: Method) -> str:
    """The full name of the message that a method returns, or sends as an item of its stream."""
    if not method.output_type:
        return EMPTY_MESSAGE
    wrapped = schema.wrapped(method) is not None
    return f"{schema.namespace}.{response_message(method.name) if wrapped else split_list(method.output_type)[0]}"


def enum_scopes(schema: Schema) -> dict[str, str]:
    """Each enum's name within the package: `Mood`, or `MoodScope.Mood` where its values would clash."""
    taken = {schema.service.name}
    taken.update(kind.name for kind in schema.types)
    taken.update(enum.name for enum in schema.enums)
    taken.update(response_message(method.name) for method in schema.service.methods)
    scopes: dict[str, str] = {}
    for enum in schema.enums:
        values = {unspecified(enum.name), *(value.name for value in enum.values)}
        if taken.isdisjoint(values):
            taken |= values
            scopes[enum.name] = enum.name
            continue
        scope = f"{enum.name}Scope"
        while scope in taken:
            scope += "_"
        taken.add(scope)
        scopes[enum.name] = f"{scope}.{enum.name}"
    return scopes


def _google_file(name: str, message: bytes) -> bytes:
    title = name.capitalize()
    options = (
        text(1, "com.google.protobuf")
        + text(8, f"{title}Proto")
        + number(10, 1)
        + text(11, f"google.golang.org/protobuf/types/known/{name}pb")
        + number(31, 1)
        + text(36, "GPB")
        + text(37, "Google.Protobuf.WellKnownTypes")
    )
    return (
        text(1, f"google/protobuf/{name}.proto")
        + text(2, "google.protobuf")
        + block(4, text(1, title) + message)
        + block(8, options)
        + text(12, "proto3")
    )


def _plain_field(name: str, place: int, kind: int) -> bytes:
    return block(2, text(1, name) + number(3, place) + number(4, _OPTIONAL) + number(5, kind) + text(10, name))


_EMPTY_FILE, _TIMESTAMP_FILE = "google/protobuf/empty.proto", "google/protobuf/timestamp.proto"
_GOOGLE_FILES = {
    _EMPTY_FILE: _google_file("empty", b""),
    _TIMESTAMP_FILE: _google_file("timestamp", _plain_field("seconds", 1, 3) + _plain_field("nanos", 2, 5)),
}


def _imports(schema: Schema) -> list[str]:
    used = {split_list(field.type)[0] for kind in schema.types for field in kind.fields}
    methods = schema.service.methods
    used.update(split_list(method.output_type)[0] for method in methods)
    imported = []
    if any(not method.input_type or not method.output_type for method in methods):
        imported.append(_EMPTY_FILE)
    if any(name in SCALARS and SCALARS[name].protobuf == TIMESTAMP_MESSAGE for name in used):
        imported.append(_TIMESTAMP_FILE)
    return imported


def _file(schema: Schema) -> bytes:
    scopes = enum_scopes(schema)
    refer = _references(schema, scopes)
    out = [text(1, file_name(schema)), text(2, schema.namespace)]
    out += [text(3, name) for name in _imports(schema)]
    out += [block(4, _message(kind, refer)) for kind in schema.types]
    for method in schema.service.methods:
        answer = schema.wrapped(method)
        if answer is not None:
            out.append(block(4, _message(Type(response_message(method.name), fields=(answer,)), refer)))
    nested = [enum for enum in schema.enums if "." in scopes[enum.name]]
    out += [block(4, text(1, scopes[enum.name].partition(".")[0]) + block(4, _enum(enum))) for enum in nested]
    out += [block(5, _enum(enum)) for enum in schema.enums if enum not in nested]
    out.append(block(6, _service(schema)))
    out.append(text(12, "proto3"))
    return b"".join(out)


def _message(kind: Type, refer: dict[str, tuple[int, str]]) -> bytes:
    out = [text(1, kind.name)]
    oneofs: list[bytes] = []
    names = {field.name for field in kind.fields}
    for place, field in enumerate(kind.fields, 1):
        item, many = split_list(field.type)
        number_of_type, reference = refer[item]
        body = text(1, field.name) + number(3, place) + number(4, _REPEATED if many else _OPTIONAL)
        body += number(5, number_of_type)
        if reference:
            body += text(6, reference)
        if not many and not field.required:
            # proto3's presence: a oneof of its own, which protoc names with an underscore, more where that is taken
            body += number(9, len(oneofs))
            oneof = f"_{field.name}"
            while oneof in names:
                oneof = f"X{oneof}"
            names.add(oneof)
            oneofs.append(block(8, text(1, oneof)))
            body += text(10, json_name(field.name)) + number(17, 1)
        else:
            body += text(10, json_name(field.name))
        out.append(block(2, body))
    return b"".join(out + oneofs)


def _enum(enum: Enum) -> bytes:
    names = [unspecified(enum.name), *(value.name for value in enum.values)]
    return text(1, enum.name) + b"".join(block(2, text(1, name) + number(2, place)) for place, name in enumerate(names))


def _service(schema: Schema) -> bytes:
    return text(1, schema.service.name) + b"".join(
        block(2, _method(schema, method)) for method in schema.service.methods
    )


def _method(schema: Schema, method: Method) -> bytes:
    out = text(1, method.name)
    out += text(2, f".{input_message(schema, method)}") + text(3, f".{output_message(schema, method)}")
    if is_read_only(method):
        out += block(4, number(34, _NO_SIDE_EFFECTS))
    if is_stream(method):
        out += number(6, 1)
    return out


def _references(schema: Schema, scopes: dict[str, str]) -> dict[str, tuple[int, str]]:
    """Each type name -> its number in FieldDescriptorProto.Type, and the full name where there is one."""
    refer: dict[str, tuple[int, str]] = {}
    for name, scalar in SCALARS.items():
        known = _SCALAR_TYPES.get(scalar.protobuf)
        refer[name] = (_MESSAGE, f".{scalar.protobuf}") if known is None else (known, "")
    refer.update((kind.name, (_MESSAGE, f".{schema.namespace}.{kind.name}")) for kind in schema.types)
    refer.update((name, (_ENUM, f".{schema.namespace}.{scope}")) for name, scope in scopes.items())
    return refer
