"""What `service.description.json` holds, and what a bare answer is wrapped in."""

from __future__ import annotations

import json

import pytest

from insula.errors import PackageError
from insula.schema.idl import parse_idl
from insula.schema.model import Field, read_description, write_description

SCHEMA = parse_idl(
    """
    @okra(namespace: "a", version: "v1")
    service S { one: T many: [T] items: [T] @stream word: String words: [String] @stream kinds: [E] nothing }
    type T { x: Int! }
    enum E { A }
    """
)


def test_the_description_has_the_keys_of_the_okra_tool() -> None:
    described = json.loads(write_description(SCHEMA))
    assert described["meta"] == {"namespace": "a", "version": "v1", "service": "S"}
    assert described["types"][0]["fields"][0] == {
        "name": "x",
        "type": "Int",
        "required": True,
        "directives": [],
        "doc": "",
    }
    assert described["services"][0]["methods"][1] == {
        "name": "many",
        "inputType": "",
        "outputType": "[T]",
        "directives": [],
        "doc": "",
    }
    assert read_description(write_description(SCHEMA)) == SCHEMA


def test_bare_answers_are_wrapped() -> None:
    wrapped = {method.name: SCHEMA.wrapped(method) for method in SCHEMA.service.methods}
    assert wrapped == {
        "one": None,
        "many": Field("response", "[T]", required=True),
        "items": None,
        "word": Field("response", "String", required=True),
        "words": Field("response", "String", required=True),
        "kinds": Field("response", "[E]", required=True),
        "nothing": None,
    }


@pytest.mark.parametrize("data", [b"", b"[]", b'{"types": 1}', b'{"types": [{}]}', b"[" * 20_000, b'{"types": "\xff"}'])
def test_what_is_no_description(data: bytes) -> None:
    with pytest.raises(PackageError, match="not a description"):
        read_description(data)
