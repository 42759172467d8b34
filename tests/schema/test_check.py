"""The same rules for a schema that came as a description."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.errors import InsulaError, PackageError
from insula.schema.check import check_schema
from insula.schema.model import read_description, write_description
from tests.schema.strategies import schemas


@settings(max_examples=20, deadline=None)
@given(schemas())
def test_a_written_description_is_the_schema(schema: object) -> None:
    assert check_schema(read_description(write_description(schema))) == schema  # type: ignore[arg-type]


def test_the_other_tools_spelling_becomes_ours() -> None:
    schema = check_schema(
        read_description(
            b"""{"types": [{"name": "A", "fields": [{"name": "tags", "type": "String[]", "required": true}]}],
                 "services": [{"name": "S", "methods": [{"name": "all", "inputType": "A", "outputType": "A[]"}]}],
                 "meta": {"namespace": "shop", "version": "v1", "service": "S"}}"""
        )
    )
    assert schema.types[0].fields[0].type == "[String]"
    assert schema.service.methods[0].output_type == "[A]"
    assert (schema.service.namespace, schema.service.version) == ("shop", "v1")


def description(
    types: str = "", methods: str = '{"name": "f"}', enums: str = "", meta: str = '"namespace": "a"'
) -> bytes:
    return (
        f'{{"types": [{types}], "enums": [{enums}], "meta": {{{meta}}},'
        f' "services": [{{"name": "S", "methods": [{methods}]}}]}}'
    ).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"services": []}', "no service"),
        (description(meta='"namespace": "../etc"'), "not a namespace"),
        (description(meta='"namespace": "google.protobuf"'), "server's own"),
        (description(meta='"namespace": "' + "a." * 130 + 'b"'), "too long"),
        (description(meta='"namespace": "a", "service": "T"'), "the service is given as"),
        (description(types='{"name": "a b", "fields": [{"name": "x", "type": "Int"}]}'), "not a name"),
        (description(types='{"name": "A", "fields": [{"name": "x\\n", "type": "Int"}]}'), "not a name"),
        (description(types='{"name": "A", "fields": [{"name": "x", "type": "[[Int]]"}]}'), "list of lists"),
        (description(types='{"name": "A", "fields": [{"name": "x", "type": ""}]}'), "unknown type"),
        (description(methods='{"name": "f/../g"}'), "not a name for a method"),
        (description(methods='{"name": "f", "inputType": "[A]"}'), "unknown type"),
        (description(methods='{"name": "f", "inputType": "Empty"}'), "unknown type"),
        (description(methods='{"name": "f", "directives": [{"name": "auth", "args": {"cel": "x"}}]}'), "argument cel"),
        (description(methods='{"name": "f", "directives": [{"name": "auth", "args": {"roles": "admin"}}]}'), "roles"),
        (description(methods='{"name": "f", "directives": [{"name": "role", "args": {"name": "admin"}}]}'), "@role"),
        (description(enums='{"name": "E", "values": [{"name": "true"}]}'), "not a name for a value"),
        (
            description(types='{"name": "A", "fields": [{"name": "a", "type": "A", "required": true}]}'),
            "contains itself",
        ),
    ],
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(PackageError, match=r"^service\.description\.json: ") as caught:
        check_schema(read_description(data))
    assert message in caught.value.message
    assert caught.value.hint


def test_a_required_list_of_itself_has_an_end() -> None:
    check_schema(
        read_description(description(types='{"name": "A", "fields": [{"name": "a", "type": "[A]", "required": true}]}'))
    )


def test_a_long_chain_of_required_types_is_measured_without_recursion() -> None:
    chain = ",".join(
        f'{{"name": "T{n}", "fields": [{{"name": "a", "type": "T{n + 1}", "required": true}}]}}' for n in range(1_500)
    )
    last = '{"name": "T1500", "fields": [{"name": "a", "type": "Int"}]}'
    with pytest.raises(PackageError, match="more than 1000 fields"):
        check_schema(read_description(description(types=f"{chain},{last}")))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "type", "fields"]), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["types", "enums", "services", "meta"]), json_values))
def test_any_json_is_read_or_refused(value: object) -> None:
    import json

    try:
        check_schema(read_description(json.dumps(value).encode()))
    except InsulaError:
        return
