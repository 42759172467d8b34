"""To which method a directive belongs."""

from __future__ import annotations

import pytest

from insula.errors import PackageError
from insula.schema.idl import parse_idl


def placed(block: str) -> dict[str, list[str]]:
    schema = parse_idl(f'@okra(namespace: "a")\nservice S {{{block}}}')
    return {method.name: [directive.name for directive in method.directives] for method in schema.service.methods}


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (" one: Int @x two: Int ", {"one": ["x"], "two": []}),
        (" @x one: Int @y two: Int ", {"one": ["x", "y"], "two": []}),
        ("\n  one: Int\n  @x two: Int\n", {"one": [], "two": ["x"]}),
        ("\n  one: Int\n    @x two: Int\n", {"one": [], "two": ["x"]}),
        ("\n  one: Int\n    @x\n  two: Int\n", {"one": ["x"], "two": []}),
        ("\n  one: Int\n  @x\n  two: Int\n", {"one": [], "two": ["x"]}),
        ("\n  one: Int\n    @x\n    @y @z\n  @w\n  two: Int\n", {"one": ["x", "y", "z"], "two": ["w"]}),
        ("\n  @x\n  @y\n  one: Int\n  two: Int\n  @z\n", {"one": ["x", "y"], "two": ["z"]}),
        ("\n  one: Int @x(\n   a: 1\n  ) @y\n  two: Int\n", {"one": ["x", "y"], "two": []}),
        ("\n\tone: Int\n\t\t@x\n\ttwo: Int\n", {"one": ["x"], "two": []}),
        ("\n  one\n  @x two(): Int\n  three()\n", {"one": [], "two": ["x"], "three": []}),
        ('\n  one\n  @x "doc" two\n', {"one": [], "two": ["x"]}),
        ('\n  one\n  "doc"\n  @x\n  two\n', {"one": [], "two": ["x"]}),
        ("\n    one: Int\n  @x\n    two: Int\n", {"one": [], "two": ["x"]}),
        ("\n  one: Int # @y\n  # @z\n  @x\n  two: Int\n", {"one": [], "two": ["x"]}),
    ],
)
def test_directives_find_their_method(block: str, expected: dict[str, list[str]]) -> None:
    assert placed(block) == expected


def test_tabs_and_spaces_decide_nothing() -> None:
    with pytest.raises(PackageError, match=r":4:5: .*mixes tabs and spaces"):
        placed("\n\tone: Int\n    @x\n\ttwo: Int\n")


def test_a_doc_string_after_the_directive_is_the_methods() -> None:
    schema = parse_idl('@okra(namespace: "a") service S { @x "tells" one: Int }')
    assert schema.service.methods[0].doc == "tells"
