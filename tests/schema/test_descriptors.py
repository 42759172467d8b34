"""The descriptor set as a protobuf library reads it."""

from __future__ import annotations

from hypothesis import given, settings
from protobuf import Registry
from protobuf.wkt.google.protobuf import empty_pb, timestamp_pb
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorProto, FileDescriptorSet, MethodOptions

from insula.schema.descriptors import enum_scopes, file_name, input_message, output_message, to_descriptor_set
from insula.schema.idl import parse_idl
from insula.schema.model import Schema
from insula.schema.scalars import SCALARS
from tests.schema.strategies import schemas

SCHEMA = parse_idl(
    """
    @okra(namespace: "my.app", version: "v2")
    service Greeter {
      greet(input: Req): Res
      shutdown(): Boolean
      ping
      moods(): [Mood]
      all(): [Res]
      watch(input: Req): [Res] @stream
      names(): [String] @stream
      getOne(input: Req): Res
      peek(): Res @readonly
    }
    type Req { first_name: String! nick: String _nick: Int tags: [String!]! }
    type Res { at: DateTime! mood: Mood other: Other }
    enum Mood { HAPPY SAD }
    enum Other { HAPPY ANGRY }
    enum Third { Req THIRD }
    """
)


def read(schema: Schema) -> tuple[FileDescriptorSet, Registry]:
    files = FileDescriptorSet.from_binary(to_descriptor_set(schema))
    return files, files.to_registry()


def own_file(schema: Schema) -> FileDescriptorProto:
    return read(schema)[0].file[-1]


def test_methods() -> None:
    _, registry = read(SCHEMA)
    service = registry.service("my.app.Greeter")
    assert service is not None
    empty = "google.protobuf.Empty"
    assert [(m.name, m.input.type_name, m.output.type_name, m.method_kind) for m in service.methods] == [
        ("greet", "my.app.Req", "my.app.Res", "unary"),
        ("shutdown", empty, "my.app.ShutdownResponse", "unary"),
        ("ping", empty, empty, "unary"),
        ("moods", empty, "my.app.MoodsResponse", "unary"),
        ("all", empty, "my.app.AllResponse", "unary"),
        ("watch", "my.app.Req", "my.app.Res", "server_streaming"),
        ("names", empty, "my.app.NamesResponse", "server_streaming"),
        ("getOne", "my.app.Req", "my.app.Res", "unary"),
        ("peek", empty, "my.app.Res", "unary"),
    ]
    reading = MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS
    assert [m.name for m in service.methods if m.idempotency == reading] == ["getOne", "peek"]
    for method, described in zip(SCHEMA.service.methods, service.methods, strict=True):
        assert input_message(SCHEMA, method) == described.input.type_name
        assert output_message(SCHEMA, method) == described.output.type_name


def test_fields() -> None:
    req, res = own_file(SCHEMA).message_type[:2]
    assert [(f.name, f.number, f.json_name, f.label.name, f.proto3_optional) for f in req.field] == [
        ("first_name", 1, "firstName", "OPTIONAL", False),
        ("nick", 2, "nick", "OPTIONAL", True),
        ("_nick", 3, "Nick", "OPTIONAL", True),
        ("tags", 4, "tags", "REPEATED", False),
    ]
    # the field _nick has taken the name that protoc would give to the oneof of nick
    assert [oneof.name for oneof in req.oneof_decl] == ["X_nick", "__nick"]
    assert [f.type_name for f in res.field] == [
        ".google.protobuf.Timestamp",
        ".my.app.Mood",
        ".my.app.OtherScope.Other",
    ]


def test_enums_keep_the_names_of_their_values() -> None:
    assert enum_scopes(SCHEMA) == {"Mood": "Mood", "Other": "OtherScope.Other", "Third": "ThirdScope.Third"}
    file = own_file(SCHEMA)
    assert [(v.name, v.number) for v in file.enum_type[0].value] == [("MOOD_UNSPECIFIED", 0), ("HAPPY", 1), ("SAD", 2)]
    _, registry = read(SCHEMA)
    other = registry.enum("my.app.OtherScope.Other")
    assert other is not None
    assert [value.name for value in other.values] == ["OTHER_UNSPECIFIED", "HAPPY", "ANGRY"]


def test_the_imported_files_are_there_as_everyone_has_them() -> None:
    files, _ = read(SCHEMA)
    assert [file.name for file in files.file] == [
        "google/protobuf/empty.proto",
        "google/protobuf/timestamp.proto",
        file_name(SCHEMA),
    ]
    assert file_name(SCHEMA) == "my/app/v2/Greeter.proto"
    assert files.file[0] == empty_pb.desc().proto
    assert files.file[1] == timestamp_pb.desc().proto
    assert files.file[2].dependency == ["google/protobuf/empty.proto", "google/protobuf/timestamp.proto"]


def test_nothing_is_imported_for_nothing() -> None:
    schema = parse_idl('@okra(namespace: "a") service S { f(input: T): T } type T { a: Int }')
    assert [file.name for file in read(schema)[0].file] == ["a/v1/S.proto"]


def test_every_scalar() -> None:
    fields = " ".join(f"f{name}: {name}!" for name in SCALARS)
    schema = parse_idl(f'@okra(namespace: "a") service S {{ f(input: T): T }} type T {{ {fields} }}')
    for field, (name, scalar) in zip(own_file(schema).message_type[0].field, SCALARS.items(), strict=True):
        kind = field.type_name.removeprefix(".") or field.type.name.lower()
        assert kind == scalar.protobuf, name


@settings(max_examples=40, deadline=None)
@given(schemas(plain=True))
def test_any_schema_is_a_whole_and_valid_descriptor_set(schema: Schema) -> None:
    data = to_descriptor_set(schema)
    files, registry = read(schema)
    assert files.to_binary() == data
    scopes: dict[str, set[str]] = {}
    file = files.file[-1]
    for message in file.message_type:
        assert registry.message(f"shop.eu.{message.name}") is not None
        scopes[message.name] = {value.name for enum in message.enum_type for value in enum.value}
    top = [message.name for message in file.message_type] + [enum.name for enum in file.enum_type] + ["Svc"]
    top += [value.name for enum in file.enum_type for value in enum.value]
    assert len(top) == len(set(top))
