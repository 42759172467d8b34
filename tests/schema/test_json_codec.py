"""One method's JSON, both ways, as a gateway and a guest see it."""

from __future__ import annotations

import json
import tracemalloc
from asyncio import Future
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from insula.errors import CallerError, Code, GuestError, InsulaError, PackageError
from insula.schema.bounds import Bounds
from insula.schema.idl import parse_idl
from insula.schema.json_codec import SMALL, JsonCodecs, WholeCodec, compile_all, compile_json
from insula.schema.json_ways import INLINE_BYTES, Elsewhere
from insula.schema.model import Schema

SCHEMA = parse_idl(
    """
    @okra(namespace: "my.app", version: "v1")
    service Greeter {
      greet(input: Req): Res
      echo(input: All): All
      grow(input: Tree): Tree
      shutdown(): Boolean
      count(): Long
      when(): DateTime
      moods(): [Mood]
      longs(): [Long]
      everyone(): [Res]
      ping
      tell(input: Req)
      names(): [String] @stream
      people(): [Res] @stream
    }
    type Req { name: String! }
    type Res { message: String! first_name: String }
    type Tree { value: Int! kids: [Tree!]! up: Tree }
    type All {
      s: String! i: Int! l: Long! f: Float! d: Double! b: Boolean! y: Bytes! t: Timestamp! e: Mood! m: Res! ls: [String!]!
      os: String oi: Int ol: Long of: Float od: Double ob: Boolean oy: Bytes ot: DateTime oe: Mood om: Res
      ll: [Long] lt: [Time] le: [Mood] lm: [Res] ly: [Bytes]
      day: Date span: Duration big: BigInt
    }
    enum Mood { HAPPY SAD }
    """
)
CODECS = compile_all(SCHEMA)
ZERO: dict[str, Any] = {
    "s": "",
    "i": 0,
    "l": 0,
    "f": 0.0,
    "d": 0.0,
    "b": False,
    "y": "",
    "t": "1970-01-01T00:00:00Z",
    "e": "MOOD_UNSPECIFIED",
    "m": {"message": ""},
    "ls": [],
}


def to_guest(method: str, body: bytes) -> Any:
    return json.loads(CODECS[method].read_input(body))


def to_client(method: str, payload: bytes) -> Any:
    return json.loads(CODECS[method].write_output(payload))


def test_the_plain_case() -> None:
    assert CODECS["greet"].read_input(b' { "name" : "w\\u00f6rld" } ') == '{"name":"wörld"}'.encode()
    assert CODECS["greet"].write_output(b'{"message":"hi"}') == b'{"message":"hi"}'


def test_what_is_left_out() -> None:
    assert to_guest("echo", b"{}") == ZERO
    nulls = json.dumps(dict.fromkeys([*ZERO, "os", "oi", "om", "ll", "ot"])).encode()
    assert to_guest("echo", nulls) == ZERO
    assert to_client("echo", b"{}") == {**ZERO, "l": "0"}
    assert to_client("echo", nulls) == {**ZERO, "l": "0"}


def test_an_optional_zero_that_was_sent_is_there() -> None:
    sent = {"os": "", "oi": 0, "ob": False, "oy": "", "ll": [], "om": {}, "oe": "MOOD_UNSPECIFIED", "of": 0.0, "ol": 0}
    assert to_guest("echo", json.dumps(sent).encode()) == {**ZERO, **sent, "om": {"message": ""}}


@pytest.mark.parametrize(
    ("field", "sent", "guest"),
    [
        ("i", "1.0", 1),
        ("i", '"-12"', -12),
        ("i", "1e2", 100),
        ("l", "9007199254740993", 9007199254740993),
        ("l", '"9007199254740993"', 9007199254740993),
        ("l", "-9223372036854775808", -(2**63)),
        ("ll", '[1316130638171, "2", 9223372036854775807]', [1316130638171, 2, 2**63 - 1]),
        ("f", '"NaN"', "NaN"),
        ("d", '"-Infinity"', "-Infinity"),
        ("d", '"1.5"', 1.5),
        ("d", "3", 3.0),
        ("f", "0.1", 0.1),
        ("y", '"--__"', "++//"),
        ("y", '"++//"', "++//"),
        ("y", '"QQ"', "QQ=="),
        ("oy", '"QQ=="', "QQ=="),
        ("ly", '["QQ", "--__"]', ["QQ==", "++//"]),
        ("e", '"SAD"', "SAD"),
        ("e", "1", "HAPPY"),
        ("oe", "0", "MOOD_UNSPECIFIED"),
        ("le", '["HAPPY", 2]', ["HAPPY", "SAD"]),
        ("t", '"2026-05-29T08:35:13.700719321Z"', "2026-05-29T08:35:13.700719321Z"),
        ("ot", '"2026-05-29T08:35:13.7Z"', "2026-05-29T08:35:13.700Z"),
        ("lt", '["2026-05-29T10:35:13+02:00"]', ["2026-05-29T08:35:13Z"]),
        ("day", '"not checked"', "not checked"),
        ("big", '"1e5"', "1e5"),
        ("s", '"\\u0000\\ud83d\\ude00"', "\0😀"),
        ("om", '{"firstName": "x"}', {"message": "", "first_name": "x"}),
        ("om", '{"first_name": "x", "firstName": null}', {"message": "", "first_name": "x"}),
    ],
)
def test_other_spellings_become_the_guests(field: str, sent: str, guest: Any) -> None:
    expected = {**ZERO, field: guest}
    assert to_guest("echo", f'{{"{field}": {sent}}}'.encode()) == expected
    # one odd field does not change how its neighbours are read
    assert to_guest("echo", f'{{"span": "1s", "x": [0], "{field}": {sent}, "oi": 1.0}}'.encode()) == {
        **expected,
        "span": "1s",
        "oi": 1,
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "$: not JSON"),
        (b"{", "$: not JSON"),
        (b"null", "$: expected an object, got null"),
        (b"[]", "$: expected an object, got a list"),
        (b'{"s": 1}', "$.s: expected a string, got a number"),
        (b'{"s": ["x"]}', "$.s: expected a string, got a list"),
        (b'{"b": 1}', "$.b: expected true or false, got a number"),
        (b'{"b": "true"}', "$.b: expected true or false, got a string"),
        (b'{"i": true}', "$.i: expected a whole number of 32 bits, got true"),
        (b'{"i": 1.5}', "$.i: expected a whole number, got a number"),
        (b'{"i": 2147483648}', "$.i: expected a whole number of 32 bits, got a number"),
        (b'{"i": " 1"}', "$.i: expected a whole number, got a string"),
        (b'{"l": 9223372036854775808}', "$.l: expected a whole number of 64 bits, got a number"),
        (b'{"l": 1e999999999}', "$.l: expected a whole number of 64 bits"),
        (b'{"l": ' + b"9" * 5000 + b"}", "$.l: expected a whole number"),
        (b'{"f": 3.5e38}', "$.f: expected a number in range"),
        (b'{"d": 1e400}', "$.d: expected a number in range"),
        (b'{"d": NaN}', "$: not JSON: NaN"),
        (b'{"y": "Q"}', "$.y: expected base64 text"),
        (b'{"t": "2026-02-30T00:00:00Z"}', "$.t: expected a timestamp that exists"),
        (b'{"t": 0}', "$.t: expected an RFC 3339 timestamp"),
        (b'{"e": "happy"}', "$.e: expected one of "),
        (b'{"e": 3}', "$.e: expected one of "),
        (b'{"e": -1}', "$.e: expected one of "),
        (b'{"e": "1"}', "$.e: expected one of "),
        (b'{"ls": "x"}', "$.ls: expected a list, got a string"),
        (b'{"ls": ["a", null]}', "$.ls[1]: expected a string, got null"),
        (b'{"lm": [{}, {}, {"message": 7}]}', "$.lm[2].message: expected a string"),
        (b'{"lm": [null]}', "$.lm[0]: expected an object, got null"),
        (b'{"om": {"firstName": 1}}', "$.om.first_name: expected a string"),
        (b'{"om": {"firstName": "a", "first_name": "b"}}', "$.om.first_name: given twice"),
        (b'{"s": "\xff"}', "invalid UTF-8"),
        (b'{"unknown": "\xff"}', "invalid UTF-8"),
        (b'{"\xff": 1}', "invalid UTF-8"),
        (b'{"s": "\xed\xa0\x80"}', "invalid UTF-8"),
        (b'{"lm": [{"message": "\\ud800"}]}', "$.lm[0].message: invalid UTF-8"),
        (b'{"s": "a\nb"}', "$: not JSON"),
        (b'{"s": "a",}', "$: not JSON"),
        (b'{"s": "a"} {}', "$: not JSON"),
        (b"[" * 10_000, "deeper than 200 levels"),
        (b'{"unknown": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "deeper than 200 levels"),
    ],
)
def test_the_client_is_told_which_field(body: bytes, message: str) -> None:
    with pytest.raises(CallerError) as caught:
        CODECS["echo"].read_input(body)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert message in caught.value.message


def test_the_hint_says_how_the_field_is_declared() -> None:
    with pytest.raises(CallerError) as caught:
        CODECS["echo"].read_input(b'{"lm": 1}')
    assert caught.value.hint == "All.lm is declared [Res]"


def test_of_two_equal_keys_the_last_counts() -> None:
    assert to_guest("greet", b'{"name": "a", "name": "b"}') == {"name": "b"}
    assert to_guest("greet", b'{"name": 1, "name": "b", "x": 1.0}') == {"name": "b"}
    assert to_guest("greet", b'{"name": "a", "name": null}') == {"name": ""}


def tree(levels: int) -> bytes:
    return b'{"kids":[' * levels + b"{}" + b"]}" * levels


def test_a_type_inside_itself() -> None:
    assert to_guest("grow", b'{"kids": [{"value": 1}], "up": {"up": {}}}') == {
        "value": 0,
        "kids": [{"value": 1, "kids": []}],
        "up": {"value": 0, "kids": [], "up": {"value": 0, "kids": []}},
    }
    CODECS["grow"].read_input(tree(99))
    CODECS["grow"].write_output(tree(99))
    for levels in (100, 5_000):
        with pytest.raises(CallerError, match="deeper"):
            CODECS["grow"].read_input(tree(levels))
        with pytest.raises(GuestError, match="deeper"):
            CODECS["grow"].write_output(tree(levels))


@pytest.mark.parametrize("method", ["shutdown", "ping"])
def test_a_method_without_input(method: str) -> None:
    for body in (b"", b"{}", b' {"a": {"b": [1]}} '):
        assert CODECS[method].read_input(body) == b"{}"
    for body in (b"[]", b"null", b"1", b"{", b'{"a": "\xff"}', b"[" * 10_000):
        with pytest.raises(CallerError, match=r"^\$: "):
            CODECS[method].read_input(body)


@pytest.mark.parametrize(
    ("method", "payload", "answer"),
    [
        ("shutdown", b"true", {"response": True}),
        ("shutdown", b"null", {"response": False}),
        ("shutdown", b"", {"response": False}),
        ("count", b"9007199254740993", {"response": "9007199254740993"}),
        ("count", b'"9007199254740993"', {"response": "9007199254740993"}),
        ("count", b"null", {"response": "0"}),
        ("when", b'"2026-05-29T08:35:13.7Z"', {"response": "2026-05-29T08:35:13.700Z"}),
        ("when", b"", {"response": "1970-01-01T00:00:00Z"}),
        ("moods", b'["HAPPY", 2]', {"response": ["HAPPY", "SAD"]}),
        ("moods", b"null", {"response": []}),
        ("longs", b'[1, "9007199254740993"]', {"response": ["1", "9007199254740993"]}),
        ("everyone", b'[{"message": "a", "first_name": "b"}]', {"response": [{"message": "a", "firstName": "b"}]}),
        ("names", b'"one item"', {"response": "one item"}),
        ("people", b'{"message": "one item"}', {"message": "one item"}),
        ("greet", b"null", {"message": ""}),
        ("greet", b"", {"message": ""}),
        ("greet", b'{"message": "a", "first_name": null, "more": 1}', {"message": "a"}),
        ("greet", b'{"message": "a", "firstName": "b"}', {"message": "a", "firstName": "b"}),
        ("ping", b"", {}),
        ("ping", b"null", {}),
        ("ping", b'{"a": 1}', {}),
        ("tell", b"7", {}),
    ],
)
def test_what_the_client_gets(method: str, payload: bytes, answer: Any) -> None:
    assert to_client(method, payload) == answer


@pytest.mark.parametrize(
    ("method", "payload", "path"),
    [
        ("greet", b"[]", "$: expected an object"),
        ("greet", b'{"message": 1}', "$.message: expected a string"),
        ("greet", b'{"message": "\xff"}', "invalid UTF-8"),
        ("greet", b"oops", "$: not JSON"),
        ("moods", b'["HAPPY", "GLAD"]', "$[1]: expected one of "),
        ("everyone", b'[{}, {"first_name": 1}]', "$[1].first_name: expected a string"),
        ("shutdown", b"1", "$: expected true or false"),
        ("shutdown", b'{"response": true}', "$: expected true or false, got an object"),
        ("longs", b"[1.5]", "$[0]: expected a whole number"),
        ("when", b'"yesterday"', "$: expected an RFC 3339"),
        ("count", b'"1.5"', "$: expected a whole number"),
        ("ping", b"oops", "$: not JSON"),
        ("ping", b'{"a": "\xff"}', "invalid UTF-8"),
        ("echo", b'{"lt": ["yesterday"]}', "$.lt[0]: expected an RFC 3339"),
    ],
)
def test_a_wrong_answer_is_the_guests_fault(method: str, payload: bytes, path: str) -> None:
    with pytest.raises(GuestError) as caught:
        CODECS[method].write_output(payload)
    assert caught.value.code is Code.INTERNAL
    assert path in caught.value.message


def test_one_method_alone_is_the_same() -> None:
    for method in SCHEMA.service.methods:
        codec: WholeCodec = compile_json(SCHEMA, method)
        assert codec.write_output(b"null") == CODECS[method.name].write_output(b"null")


PIECES = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"s":',
    b'"l":',
    b'"lm":',
    b'"om":',
    b"1",
    b"-",
    b"1e9",
    b'"',
    b"\\",
    b"\xff",
    b"\\u",
    b"null",
]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30) | st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join))
@example(b'{"s":"\\ud800"}')
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for codec in (CODECS["echo"], CODECS["shutdown"]):
        for way in (codec.read_input, codec.write_output):
            try:
                json.loads(way(body))
            except InsulaError:
                continue


def test_codecs_are_small() -> None:
    schemas = [
        parse_idl(
            '@okra(namespace: "a") service S { greet(input: A): B } type A { name: String! } type B { message: String! }'
        )
        for _ in range(20)
    ]
    compile_all(schemas[0])
    tracemalloc.start()
    try:
        kept = [compile_all(schema) for schema in schemas]
        each = tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()
    assert each < 20_000


def chain(size: int, required: str = "") -> Schema:
    types = " ".join(f"type T{n} {{ a: T{n + 1}{required} }}" for n in range(size - 1))
    return parse_idl(f'@okra(namespace: "a") service S {{ f(input: T0): T0 }} {types} type T{size - 1} {{ a: Int }}')


def nowhere(_method: str) -> tuple[Elsewhere, Elsewhere]:
    def elsewhere(_body: bytes, _deadline: float) -> Future[bytes]:
        raise AssertionError("this is small")

    return elsewhere, elsewhere


def test_a_small_schema_is_compiled_at_its_first_call_and_a_large_one_at_its_deploy() -> None:
    for size in (SMALL, SMALL + 1):
        codecs = JsonCodecs(chain(size), Bounds(), nowhere)
        codecs.prepare()
        tracemalloc.start()
        try:
            codec = codecs.of("f")
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert (taken > 1000) == (size == SMALL)
        assert codecs.of("f") is codec
        assert codec.read_input(b'{"a":{"a":{}}}', 0.0) == b'{"a":{"a":{}}}'


def test_types_that_nest_too_deeply_are_refused_at_the_deploy() -> None:
    JsonCodecs(chain(1_500), Bounds(), nowhere).prepare()
    with pytest.raises(PackageError, match="nest too deeply"):
        JsonCodecs(chain(990, "!"), Bounds(), nowhere).prepare()


LISTS = parse_idl(
    """@okra(namespace: "a") service S { f(input: T): T }
    type T { s: [String!] l: [Long!] t: [Time!] d: [Double!] r: [R!] } type R { """
    + " ".join(f"field_{number}: String!" for number in range(500))
    + " }"
)


@pytest.mark.parametrize(
    ("item", "count", "inline"),
    [
        (b's":["a"', 1, True),
        (b's":["%b"' % (b"x" * 200_000), 1, True),
        (b's":["%b"' % (b"x" * INLINE_BYTES), 1, False),
        (b's":["a"', 4_000, True),
        (b's":["a"', 60_000, False),
        (b'l":[1', 1_000, True),
        (b'l":[1', 10_000, False),
        (b't":["2026-05-29T08:35:13Z"', 100, True),
        (b't":["2026-05-29T08:35:13Z"', 3_000, False),
        (b'd":[0.5', 2_000, True),
        (b'd":[5e-324', 1_000, False),  # 22 us each
        (b'r":[{}', 3, True),
        (b'r":[{}', 100, False),
        (b'z":[%b%b' % (b"[" * 150, b"]" * 150), 3, True),
        (b'z":[%b%b' % (b"[" * 150, b"]" * 150), 200, False),
        (b's":null,"z":["a"', 100, True),
        (b't":["2026-05-29T08:35:13Z",null', 400, False),  # which is read step by step
    ],
)
def test_what_may_take_long_is_done_elsewhere(item: bytes, count: int, inline: bool) -> None:
    class ElsewhereError(Exception):
        pass

    def elsewhere(_body: bytes, _deadline: float) -> Future[bytes]:
        raise ElsewhereError

    key, _, value = item.rpartition(b'":[')
    text = b'{"%b":[%b]}' % (key, b",".join([value] * count))
    codec = JsonCodecs(LISTS, Bounds(), lambda _: (elsewhere, elsewhere)).of("f")
    for way in (codec.read_input, codec.write_output):
        done = True
        try:
            way(text, 1e9)
        except ElsewhereError:
            done = False
        except InsulaError:
            pass
        assert done == inline
