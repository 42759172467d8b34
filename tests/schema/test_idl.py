"""Texts in, models out; and what every mistake is told."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from insula.errors import InsulaError, PackageError
from insula.schema.idl import MAX_IDL_BYTES, parse_idl
from insula.schema.model import Directive, Schema
from tests.schema.strategies import idl_text, schemas

HEAD = '@okra(namespace: "a", version: "v1")\n'


@settings(max_examples=50, deadline=None)
@given(schemas(), st.booleans())
def test_what_is_written_is_read(schema: Schema, inside: bool) -> None:
    assert parse_idl(idl_text(schema, inside=inside)) == schema


def test_the_whole_of_the_language() -> None:
    schema = parse_idl(
        '''
        """About the file"""
        @okra(namespace: "my.app", version: "v3")

        """
        Greets. service Fake @okra(namespace: "x") { f: Int }
        """
        service Greeter { # service Other {
          "says hi"
          greet(input: GreetRequest!): GreetResponse!
          @auth(roles: ["admin"]) shutdown(): Boolean
          ping
          all: [Mood!]! @deprecated(reason: """no "more" """, e: FOO, n: null, i: -1, f: 1.5e3, l: [1, [true]], o: {a: {}})
        }
        directive @deprecated(reason: String) on FIELD_DEFINITION
        scalar DateTime
        type GreetRequest @x { "who" name: String! tags: [String!] }
        type GreetResponse { message: String!, at: DateTime }
        enum Mood { "good" HAPPY @shown SAD }
        '''
    )
    assert (schema.namespace, schema.version, schema.service.name) == ("my.app", "v3", "Greeter")
    assert schema.meta.namespace == "my.app"
    assert schema.meta.service == "Greeter"
    assert schema.service.doc == 'Greets. service Fake @okra(namespace: "x") { f: Int }'
    greet, shutdown, ping, everything = schema.service.methods
    assert (greet.input_type, greet.output_type, greet.doc) == ("GreetRequest", "GreetResponse", "says hi")
    assert (shutdown.input_type, shutdown.output_type) == ("", "Boolean")
    assert shutdown.directives == (Directive("auth", {"roles": ["admin"]}),)
    assert (ping.input_type, ping.output_type, ping.directives) == ("", "", ())
    assert everything.output_type == "[Mood]"
    assert everything.directives[0].args == {
        "reason": 'no "more" ',
        "e": "FOO",
        "n": None,
        "i": -1,
        "f": 1500.0,
        "l": [1, [True]],
        "o": {"a": {}},
    }
    request, response = schema.types
    assert [(field.name, field.type, field.required, field.doc) for field in request.fields] == [
        ("name", "String", True, "who"),
        ("tags", "[String]", False, ""),
    ]
    assert request.directives == (Directive("x"),)
    assert response.fields[1].type == "DateTime"
    assert [(value.name, value.doc, len(value.directives)) for value in schema.enums[0].values] == [
        ("HAPPY", "good", 1),
        ("SAD", "", 0),
    ]


def test_namespace_and_version_may_stand_at_the_service() -> None:
    schema = parse_idl('service S @okra(namespace: "a.b") { f: Int }')
    assert (schema.namespace, schema.version) == ("a.b", "v1")


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_idl("\ufeff" + HEAD + "service S { f: Int }").namespace == "a"


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("", "1:1", "no service", "service Greeter"),
        ("service S { f: Int }", "1:1", "no namespace", "@okra"),
        (HEAD + "service S { f: Int }\nservice T { f: Int }", "3:1", "second service", "two packages"),
        ('@okra(namespace: "grpc.x")\nservice S { f: Int }', "1:1", "'grpc' is the server's own", "choose another"),
        ('@okra(namespace: "a..b")\nservice S { f: Int }', "1:1", "not a namespace", "joined by dots"),
        ('@okra(namespace: "1a")\nservice S { f: Int }', "1:1", "not a namespace", "identifiers"),
        ('@okra(namespace: "a", version: "1.0")\nservice S { f: Int }', "1:1", "not a version", "one identifier"),
        ('@okra(namepsace: "a")\nservice S { f: Int }', "1:1", "unknown argument namepsace", "mean namespace?"),
        ("@okra(namespace: 1)\nservice S { f: Int }", "1:1", "not a text", "namespace"),
        (HEAD + '@okra(namespace: "b")\nservice S { f: Int }', "2:1", "given twice", "once"),
        (HEAD + 'service S @okra(namespace: "b") { f: Int }', "2:1", "given as 'b' and as 'a'", "once"),
        (HEAD + "service S @auth { f: Int }", "2:11", "@auth stands at the service", "each method"),
        (HEAD + "@auth\nservice S { f: Int }", "2:1", "stands alone", "@okra"),
        (HEAD + "service S { }", "2:1", "no methods", "write one"),
        (HEAD + "service S {\n  f: Int\n  f: Int\n}", "4:3", "declared twice", ""),
        (HEAD + "service S {\n  getUser: Int\n  GetUser: Int\n}", "4:3", "differ only in case", ""),
        (HEAD + "service S {\n  f: Strng\n}", "3:3", "unknown type Strng", "did you mean String?"),
        (HEAD + "service S {\n  f(input: Reqest): Int\n}\ntype Request { a: Int }", "3:3", "Reqest", "mean Request?"),
        (HEAD + "service S {\n  f(input: String): Int\n}", "3:3", "is a scalar", "type FRequest"),
        (HEAD + "service S {\n  f(input: E): Int\n}\nenum E { A }", "3:3", "is an enum", "wrap it"),
        (HEAD + "service S {\n  f(input: [T]): Int\n}\ntype T { a: Int }", "3:5", "a list as its input", "one type"),
        (HEAD + "service S {\n  f(a: T, b: T): Int\n}\ntype T { a: Int }", "3:11", "more than one input", "one type"),
        (HEAD + "service S {\n  f(a: T = 1): Int\n}\ntype T { a: Int }", "3:5", "has a default", "(input: Type)"),
        (HEAD + "service S { f: Int }\ntype T {\n  a: Intt!\n}", "4:3", "unknown type Intt", "did you mean Int?"),
        (HEAD + "service S { f: Int }\ntype T {\n  a: [[Int]]\n}", "4:6", "list of lists", "list field"),
        (HEAD + "service S { f: Int }\ntype T { }", "3:6", "no fields", ""),
        (HEAD + "service S { f: Int }\ntype T", "3:6", "no fields", ""),
        (HEAD + "service S { f: Int }\nenum E { }", "3:6", "no values", ""),
        (HEAD + "service S { f: Int }\ntype T { a: Int }\ntype T { b: Int }", "4:6", "declared twice", ""),
        (HEAD + "service S { f: Int }\ntype S { a: Int }", "3:6", "declared twice", "share one set"),
        (HEAD + "service S { f: Int }\ntype String { a: Int }", "3:6", "built-in scalar", "another name"),
        (HEAD + "service S { f: Int }\ntype T { a_b: Int\n aB: Int }", "4:2", "both aB in JSON", "rename"),
        (HEAD + "service S { f: Int }\ntype T { a: Int\n a: Int }", "4:2", "declared twice", ""),
        (HEAD + "service S { f: Int }\ntype T { _: Int }", "3:10", "not a name", ""),
        (HEAD + "service S { f: Int }\ntype T { __a: Int }", "3:10", "not a name", "underscores"),
        (HEAD + f"service S {{ f: Int }}\ntype T {{ {'a' * 129}: Int }}", "3:10", "not a name", "128"),
        (HEAD + "service S { f: Int }\nenum E { A A }", "3:12", "twice", ""),
        (HEAD + "service S { f: Int }\nenum E { E_UNSPECIFIED A }", "3:10", "there already", "leave it out"),
        (HEAD + "service S { f: Int }\nenum Mood { MOOD_OK OK }", "3:21", "one name in generated code", "rename"),
        (HEAD + "service S { f: Int }\nenum E { E A }", "3:10", "name of its enum", "rename"),
        (HEAD + "service S { f: Int }\ntype A { b: B! }\ntype B { a: A! }", "3:6", "contains itself", "optional"),
        (HEAD + "service S { f: Int }\ntype T { a(b: Int): Int }", "3:10", "has arguments", "only methods"),
        (HEAD + "service S { f: Int }\ntype T implements I { a: Int }", "3:1", "implements", "each type"),
        (HEAD + "service S { f: Int }\ntype FResponse { a: Int }", "2:13", "needs that name", "return it"),
        (HEAD + "service S {\n  f: Int @stream\n}", "3:3", "returns no list", "[Item]"),
        (HEAD + "service S {\n  f: Int @atuh\n}", "3:3", "@atuh", "did you mean @auth?"),
        (HEAD + "service S {\n  f: Int @Auth\n}", "3:3", "@Auth", "did you mean @auth?"),
        (HEAD + 'service S {\n  f: Int @auth(role: "x")\n}', "3:3", "unknown argument role", "roles"),
        (HEAD + "service S {\n  f: Int @auth(roles: [])\n}", "3:3", "not a list of names", ""),
        (HEAD + 'service S {\n  f: Int @auth(roles: "x")\n}', "3:3", "not a list of names", ""),
        (HEAD + "service S {\n  f: Int @auth @auth\n}", "3:3", "twice", "once"),
        (HEAD + "service S {\n  f: Int @x(a: 1, a: 2)\n}", "3:19", "argument a twice", "once"),
        (HEAD + "service S {\n  f: Int @x(a: 99999999999999999999)\n}", "3:16", "past 64 bits", "string"),
        (HEAD + "service S {\n  f: Int @x(a: 1e999)\n}", "3:16", "too large", "string"),
        (HEAD + "service S { f: Int }\ntype T { a: Int @auth }", "3:10", "@auth stands at field", "method"),
        (HEAD + "service S { f: Int }\ntype T @auth { a: Int }", "3:6", "@auth stands at type", "method"),
        (HEAD + "input T { a: Int }", "2:1", "input has no place", "write it as a type"),
        (HEAD + "union U = A | B", "2:1", "union has no place", "optional field"),
        (HEAD + "scalar Money", "2:1", "scalar Money is not known", "String"),
        (HEAD + "servce S { f: Int }", "2:1", "'servce'", "did you mean service?"),
        (HEAD + "{ a }", "2:1", "where a declaration should begin", "service, type and enum"),
        (HEAD + "service S {\n  f(: Int\n}", "3:5", "Expected Name", "GraphQL"),
        (HEAD + 'service S {\n  "open\n  f: Int }', "3:8", "Unterminated string", "GraphQL"),
        (HEAD + "service S { f: Int ", "2:20", "Expected Name", ""),
        (HEAD + '"""doc"""', "2:10", "the end of the file", ""),
    ],
)
def test_a_mistake_is_shown_where_it_is(text: str, place: str, message: str, hint: str) -> None:
    with pytest.raises(PackageError) as caught:
        parse_idl(text, "shop.gql")
    assert caught.value.message.startswith(f"shop.gql:{place}: ")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "service S { f: " + "[" * 50_000 + "]" * 50_000 + " }",
        HEAD + "service S { f: Int @x(a: " + "[" * 50_000 + "]" * 50_000 + ") }",
        HEAD + "service S { f: Int @x(a: " + "{a: " * 20_000 + "1" + "}" * 20_000 + ") }",
        HEAD + "# " * 3 + "\n#" * 300_000,
        HEAD + "type T { " + "a " * 200_000 + "}",
        "x" * (MAX_IDL_BYTES + 1),
        "é" * (MAX_IDL_BYTES // 2 + 1),
        HEAD + "service S { " + "".join(f"m{n} " for n in range(1_001)) + "}",
        HEAD + "service S { f } type T { " + "".join(f"m{n}: Int " for n in range(1_001)) + "}",
        # forty types, each with two of the next: the zero value of the first would have 2^40 fields
        HEAD
        + "service S { f(input: T0) } "
        + "".join(f"type T{n} {{ a: T{n + 1}! b: T{n + 1}! }} " for n in range(40))
        + "type T40 { a: Int }",
    ],
    ids=["lists", "values", "objects", "comments", "tokens", "bytes", "utf8", "methods", "fields", "zero values"],
)
def test_a_bomb_is_refused(text: str) -> None:
    with pytest.raises(PackageError):
        parse_idl(text)


PIECES = [
    *('@okra(namespace: "a")', "service", "S", "{", "}", "(", ")", ":", "Int", "!", "[", "]", "type", "enum", "@auth"),
    *('"doc"', '"""', '"', "#", "\n", "\\", "\ud800", "\0", "$x", "1e9", "...", "=", "&", "|", "T", "input", "\ufeff"),
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map(" ".join))
@example('@okra(namespace: "a") service S { f: Int @x(v: $x) }')
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InsulaError):
        parse_idl(text)
