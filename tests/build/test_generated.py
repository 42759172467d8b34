"""What the generated code of every language does, compiled and run: JSON in, JSON out, errors, both entries."""

from __future__ import annotations

import base64
import json
import math
from typing import Any, NamedTuple

import pytest
import wasmtime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.build.guests import Guest

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ints = st.integers(-(2**31), 2**31 - 1)
longs = st.integers(-(2**63), 2**63 - 1).map(str)
doubles = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["NaN", "Infinity", "-Infinity"]))
blobs = st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode())
moods = st.sampled_from(["HAPPY", "SAD", "SO_SO", "MOOD_UNSPECIFIED"])
addresses = st.fixed_dictionaries({"street": texts}, optional={"zip_code": ints})

_required = {
    "text": texts, "small": ints, "big": longs, "ratio": doubles, "yes": st.booleans(), "blob": blobs, "mood": moods,
    "address": addresses, "texts": st.lists(texts, max_size=9), "numbers": st.lists(ints, max_size=9),
    "moods": st.lists(moods, max_size=5),
}  # fmt: skip
_optional = {
    "note": texts, "id": texts, "when": st.just("2026-05-29T08:35:13.700719321Z"), "price": st.just("12.340"),
    "maybe_small": ints, "maybe_big": longs, "maybe_ratio": doubles, "maybe_yes": st.booleans(), "maybe_blob": blobs,
    "maybe_mood": moods, "maybe_address": addresses, "bigs": st.lists(longs, max_size=5),
    "ratios": st.lists(doubles, max_size=5), "flags": st.lists(st.booleans(), max_size=5),
    "blobs": st.lists(blobs, max_size=5), "addresses": st.lists(addresses, max_size=5), "default": texts,
    "func": texts, "register": ints,
}  # fmt: skip
everything = st.recursive(
    st.fixed_dictionaries(_required, optional=_optional),
    lambda inner: st.fixed_dictionaries(_required, optional={"children": st.lists(inner, max_size=3)}),
    max_leaves=4,
)


def same(given: Any, returned: Any) -> bool:
    """Equality that tells -0.0 from 0.0, as numbers are to come back exactly."""
    if isinstance(given, float) and not isinstance(returned, str):
        return float(returned) == given and math.copysign(1, float(returned)) == math.copysign(1, given)
    if isinstance(given, dict):
        return given.keys() == returned.keys() and all(same(value, returned[key]) for key, value in given.items())
    if isinstance(given, list):
        return len(given) == len(returned) and all(map(same, given, returned))
    return bool(given == returned) and type(given) is type(returned)


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def least(**fields: Any) -> bytes:
    """An input with only these fields: a guest reads what is left out as the zero value."""
    return encode(fields)


@quick
@given(value=everything, ascii_only=st.booleans())
def test_what_goes_in_comes_back(echo: Guest, value: dict[str, Any], ascii_only: bool) -> None:
    failed, output = echo.call(0, "echo", json.dumps(value, ensure_ascii=ascii_only).encode())
    assert not failed, output
    assert same(value, json.loads(output))


def test_zero_values_of_what_is_required(echo: Guest) -> None:
    assert json.loads(echo.call(0, "echo", b"{}")[1]) == {
        "text": "", "small": 0, "big": "0", "ratio": 0, "yes": False, "blob": "", "mood": "MOOD_UNSPECIFIED",
        "address": {"street": ""}, "texts": [], "numbers": [], "moods": [],
    }  # fmt: skip


def test_null_is_absent(echo: Guest) -> None:
    nulls = dict.fromkeys([*_required, *_optional, "children"])
    assert echo.call(0, "echo", encode(nulls)) == echo.call(0, "echo", b"{}")


def test_both_spellings_of_a_name_are_read_and_the_schema_s_is_written(echo: Guest) -> None:
    output = json.loads(echo.call(0, "echo", least(maybeSmall=5, maybeAddress={"zipCode": 7}))[1])
    assert output["maybe_small"] == 5
    assert output["maybe_address"] == {"street": "", "zip_code": 7}


def test_unknown_fields_are_passed_over_and_the_last_of_two_counts(echo: Guest) -> None:
    text = b'{"what": {"ever": [1, {"a": null}, "\\u00e9"]}, "small": 1, "small": 2, "nope": 1e5}'
    assert json.loads(echo.call(0, "echo", text)[1])["small"] == 2


@pytest.mark.parametrize("text", ["a\0b", "😀", '"\\/\b\f\n\r\t', "\u007f\u0080\uffff", "é" * 1000])
def test_text_that_needs_care(echo: Guest, text: str) -> None:
    for spelled in (json.dumps(text), json.dumps(text, ensure_ascii=False)):
        assert json.loads(echo.call(0, "echo", b'{"text": %b}' % spelled.encode())[1])["text"] == text


@pytest.mark.parametrize(
    ("written", "meant"),
    [("--__", "++//"), ("++//", "++//"), ("QQ", "QQ=="), ("QQ==", "QQ=="), ("QUI", "QUI="), ("", "")],
)
def test_bytes_are_read_in_both_alphabets_and_written_in_the_standard_one(
    echo: Guest, written: str, meant: str
) -> None:
    assert json.loads(echo.call(0, "echo", least(blob=written))[1])["blob"] == meant


@pytest.mark.parametrize("value", [1316130638171, 9007199254740993, 2**63 - 1, -(2**63)])
def test_long_numbers_are_exact(echo: Guest, value: int) -> None:
    for written in (value, str(value)):
        assert echo.call(1, "scalar", least(big=written)) == (False, b'"%d"' % value)


def test_bare_results(echo: Guest) -> None:
    assert echo.call(2, "list", least(moods=["SAD", "HAPPY"])) == (False, b'["SAD","HAPPY"]')
    assert echo.call(3, "nested", least(addresses=[{"street": "a"}])) == (False, b'[{"street":"a"}]')
    assert echo.call(3, "nested", b"{}") == (False, b"[]")


def test_a_method_without_input_takes_anything(echo: Guest) -> None:
    for payload in (b"", b" ", b"{}", b"null", b'{"a": 1}'):
        assert echo.call(4, "text", payload) == (False, b'"1 two"')


MALFORMED: list[tuple[bytes, str]] = [
    (b"", "must be an object"),
    (b"null", "must be an object"),
    (b"[]", "must be an object"),
    (b"{", "ends too early"),
    (b'{"small"', "not valid JSON"),
    (b'{"small":', "must be a whole number"),
    (b'{"small": 1', "not valid JSON"),
    (b'{"small": 1,', "ends too early"),
    (b'{"small": 1,}', "must be a string"),
    (b'{"small" 1}', "not valid JSON"),
    (b"{small: 1}", "must be a string"),
    (b"{} {}", "more than one JSON value"),
    (b"{}\0", "JSON"),
    (b'{"small": 01}', "whole number"),
    (b'{"small": 1.5}', "whole number"),
    (b'{"small": "x"}', "whole number"),
    (b'{"small": 2147483648}', "32 bits"),
    (b'{"small": -2147483649}', "32 bits"),
    (b'{"big": 9223372036854775808}', "64 bits"),
    (b'{"big": -9223372036854775809}', "64 bits"),
    (b'{"big": "1' + b"0" * 4000 + b'"}', "64 bits"),
    (b'{"ratio": 1e999}', "out of range"),
    (b'{"ratio": NaN}', "must be a number"),
    (b'{"ratio": +1}', "must be a number"),
    (b'{"ratio": .5}', "must be a number"),
    (b'{"ratio": 5.}', "must be a number"),
    (b'{"ratio": "five"}', "must be a number"),
    (b'{"yes": "true"}', "true or false"),
    (b'{"yes": tru', "true or false"),
    (b'{"text": 5}', "must be a string"),
    (b'{"text": "', "without its end"),
    (b'{"text": "\\', "a string with"),
    (b'{"text": "a\nb"}', "control character"),
    (b'{"text": "\\x"}', "escape"),
    (b'{"text": "\\u12"}', "escape"),
    (b'{"text": "\\ud800"}', "escape"),
    (b'{"text": "\\ud800\\u0041"}', "escape"),
    (b'{"text": "\\udc00"}', "escape"),
    (b'{"text": "\xff"}', "UTF-8"),
    (b'{"text": "\xed\xa0\x80"}', "UTF-8"),
    (b'{"text": "\xc0\xaf"}', "UTF-8"),
    (b'{"text": "\xf5\x80\x80\x80"}', "UTF-8"),
    (b'{"text": "\xe2\x82"}', "UTF-8"),
    (b'{"\xff": 1}', "UTF-8"),
    (b'{"blob": "Q"}', "base64"),
    (b'{"blob": "Q==="}', "base64"),
    (b'{"blob": "Q Q"}', "base64"),
    (b'{"mood": "ANGRY"}', "no value of Mood"),
    (b'{"mood": 1}', "must be a string"),
    (b'{"texts": [null]}', "must be a string"),
    (b'{"texts": "a"}', "must be a list"),
    (b'{"texts": ["a",]}', "must be a string"),
    (b'{"address": []}', "must be an object"),
    (b'{"x": [1, nul]}', "not valid JSON"),
    (b'{"x": {]}', "must be a string"),
    (b'{"children": [' * 1000, "nested too deep"),
    (b'{"x":' + b"[" * 100_000, "nested too deep"),
]


@pytest.mark.parametrize(("payload", "problem"), MALFORMED, ids=[repr(payload[:24]) for payload, _ in MALFORMED])
def test_malformed_input_is_refused(echo: Guest, payload: bytes, problem: str) -> None:
    failed, output = echo.call(0, "echo", payload)
    error = json.loads(output)
    assert failed
    assert error["code"] == "invalid_argument"
    assert problem in error["error"]


def test_the_field_at_fault_is_named(echo: Guest) -> None:
    assert "Address.zip_code" in json.loads(echo.call(0, "echo", least(address={"zipCode": "x"}))[1])["error"]


def refuse(constant: str) -> None:
    raise ValueError(constant)


@settings(quick, max_examples=120)
@given(value=everything, data=st.data())
def test_damaged_input_is_never_worse_than_refused(echo: Guest, value: dict[str, Any], data: st.DataObject) -> None:
    whole = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=2))
        if not whole:
            break
    failed, output = echo.call(0, "echo", bytes(whole))
    if failed:
        assert json.loads(output)["code"] == "invalid_argument"
    else:
        json.loads(bytes(whole), parse_constant=refuse)
        json.loads(output)


def test_large_input(echo: Guest) -> None:
    value = {"text": "x" * 3_000_000, "texts": ["y" * 10] * 50_000, "numbers": list(range(50_000))}
    failed, output = echo.call(0, "echo", encode(value))
    assert not failed
    returned = json.loads(output)
    assert {key: returned[key] for key in value} == value
    assert echo.call(4, "text", b"{}") == (False, b'"1 two"')


def test_memory_is_given_back_after_each_call(echo: Guest) -> None:
    payload = encode({"text": "x" * 200_000})
    for _ in range(5):
        echo.call(0, "echo", payload)
    before = echo.size()
    for _ in range(100):
        echo.call(0, "echo", payload)
    assert echo.size() <= before * 1.5


@pytest.mark.parametrize(
    ("code", "name"),
    [(1, "canceled"), (5, "not_found"), (10, "aborted"), (16, "unauthenticated"), (17, "unknown"), (-3, "unknown")],
)
def test_a_failure_has_its_code_and_message(echo: Guest, code: int, name: str) -> None:
    failed, output = echo.call(5, "fail", least(code=code, message='so "bad"'))
    assert failed
    assert json.loads(output)["code"] == name
    if name != "unknown":
        assert json.loads(output)["error"] == 'so "bad"'


def test_a_failure_is_forgotten_by_the_next_call(echo: Guest) -> None:
    echo.call(5, "fail", least(code=5, message="gone"))
    assert echo.call(5, "fail", least(code=0, message="")) == (False, b"true")


def test_an_unknown_method_is_unimplemented(echo: Guest) -> None:
    for failed, output in (
        echo.six("nope", b"{}"),
        echo.six("", b"{}"),
        echo.one(7, b"{}"),
        echo.one(2**31 - 1, b"{}"),
    ):
        assert failed
        assert json.loads(output)["code"] == "unimplemented"


def test_more_input_than_there_is_room_for_is_no_call(echo_module: wasmtime.Module) -> None:
    guest = Guest(echo_module)
    assert guest.raw("insula_call", 0, 1 << 30) == 0


# The host.


class HostCall(NamedTuple):
    """What the service is asked to do (with the key `k`), what the host is asked then, what it says, and what comes out."""

    what: str
    value: str | None
    method: str
    parameters: dict[str, Any]
    data: Any
    output: str


HOST_CALLS = [
    HostCall(
        "get", None, "okra.state.get", {"key": "k"},
        {"data": {"a": [1, "é"]}, "version": 3, "lastModified": "2026-01-01T00:00:00Z"},
        '1 {"a": [1, "\\u00e9"]} 3 2026-01-01T00:00:00Z',
    ),
    HostCall("get", None, "okra.state.get", {"key": "k"}, None, "0 null 0 "),
    HostCall(
        "set", '{"n": 1}', "okra.state.set",
        {"key": "k", "value": {"n": 1}, "options": {"ttl": 1.5, "ifVersion": 7, "ifAbsent": True}},
        {"data": {"n": 1}, "version": 8, "lastModified": "x"}, "8",
    ),
    HostCall("delete", None, "okra.state.delete", {"key": "k"}, None, "done"),
    HostCall(
        "increment", None, "okra.state.increment", {"key": "k", "delta": -5}, -9007199254740993, "-9007199254740993"
    ),
    HostCall(
        "list", None, "okra.state.list", {"prefix": "k", "options": {"limit": 3}},
        {"keys": ["k1", "k2"], "cursor": "next"}, "next k1 k2",
    ),
    HostCall(
        "list", "next", "okra.state.list", {"prefix": "k", "options": {"limit": 3, "cursor": "next"}}, {"keys": []}, ""
    ),
    HostCall(
        "context", None, "okra.context.get", {},
        {
            "principal": {"subject": "me"}, "metadata": [["a", "1"], ["a", "2"]], "deadline": "D", "traceparent": "T",
            "idempotencyKey": "",
        },
        '{"subject": "me"}DTa1a2',
    ),
    HostCall("header", "v", "okra.context.setHeader", {"name": "k", "value": "v"}, None, "done"),
    HostCall("trailer", "v", "okra.context.setTrailer", {"name": "k", "value": "v"}, None, "done"),
    HostCall(
        "now", None, "okra.time.now", {}, {"timestamp": 1764100000000, "timezone": "UTC", "iso8601": "2025"},
        "1764100000000 UTC 2025",
    ),
    HostCall("sleep", None, "okra.time.sleep", {"milliseconds": 20}, None, "done"),
    HostCall("env", None, "okra.env.get", {"key": "k"}, "value", "value"),
    HostCall("env", None, "okra.env.get", {"key": "k"}, None, "not set"),
    HostCall(
        "call", '{"name": "x"}', "okra.call.invoke", {"service": "k", "method": "greet", "input": {"name": "x"}},
        {"message": "hi"}, '{"message": "hi"}',
    ),
    HostCall("log", None, "okra.log.write", {"level": "warn", "message": "k"}, None, "done"),
    HostCall("raw", "{}", "okra.cache.get", {}, [1, 2], "[1, 2]"),
]  # fmt: skip


@pytest.mark.parametrize("case", HOST_CALLS, ids=[f"{case.what}-{i}" for i, case in enumerate(HOST_CALLS)])
def test_each_host_api(echo_module: wasmtime.Module, case: HostCall) -> None:
    asked: list[dict[str, Any]] = []

    def host(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        return {"success": True, "data": case.data}

    failed, given = Guest(echo_module, host).call(6, "host", least(what=case.what, key="k", value=case.value))
    assert (failed, json.loads(given)) == (False, case.output)
    api, _, method = case.method.rpartition(".")
    # Once by each entry.
    assert asked == [{"api": api, "method": method, "parameters": case.parameters, "metadata": {}}] * 2


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("CONFLICT", "aborted"),
        ("POLICY_DENIED", "permission_denied"),
        ("TIMEOUT", "deadline_exceeded"),
        ("NEW", "internal"),
    ],
)
def test_what_the_host_refuses_is_passed_on(echo_module: wasmtime.Module, code: str, name: str) -> None:
    guest = Guest(echo_module, lambda request: {"success": False, "error": {"code": code, "message": "why"}})
    assert guest.call(6, "host", least(what="get", key="k")) == (True, b'{"error":"why","code":"%b"}' % name.encode())
    assert guest.call(6, "host", least(what="ignored", key="k")) == (False, b'"done"')


@pytest.mark.parametrize(
    "answer", [{}, {"success": True, "data": {"version": "x"}}, {"success": False}, {"success": 1}]
)
def test_a_host_that_answers_oddly_is_an_error_and_no_trap(
    echo_module: wasmtime.Module, answer: dict[str, Any]
) -> None:
    failed, output = Guest(echo_module, lambda request: answer).call(6, "host", least(what="get", key="k"))
    assert failed
    assert json.loads(output)["code"] in ("internal", "resource_exhausted")


def test_a_large_answer_of_the_host_is_given_back(echo_module: wasmtime.Module) -> None:
    guest = Guest(echo_module, lambda request: {"success": True, "data": "x" * 500_000})
    sizes = []
    for _ in range(60):
        failed, output = guest.call(6, "host", least(what="env", key="k"))
        assert (failed, len(output)) == (False, 500_002)
        sizes.append(guest.size())
    assert sizes[-1] <= sizes[9] * 1.5


def test_only_the_host_s_real_names_are_imported(echo: Guest) -> None:
    assert {module for module, _ in echo.imports} <= {"okra", "wasi_snapshot_preview1"}
    assert ("okra", "run_host_api") in echo.imports
