from __future__ import annotations

import pytest

from insula.packages.agreement import difference
from insula.schema.idl import parse_idl
from tests.packages.archives import IDL


def other(old: str, new: str) -> str:
    changed = IDL.replace(old, new)
    assert changed != IDL
    return changed


def test_documentation_and_the_order_of_types_are_no_difference() -> None:
    types = "type GreetRequest { name: String!  times: Int }\ntype Greeting { message: String! }"
    turned = other(types, "\n".join(reversed(types.split("\n")))).replace("Greets people.", "Says hello.")
    assert difference(parse_idl(IDL), parse_idl(turned)) is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"demo"', '"test"', "the namespace is 'demo' in the one and 'test' in the other"),
        ('"v1"', '"v2"', "the version is 'v1'"),
        ("service Greeter", "service Hello", "the service is 'Greeter'"),
        ("listMoods: [Mood]", "", "the method listMoods is in the first alone"),
        ("listMoods: [Mood]", "listMoods: [Mood]  more: Int", "the method more is in the second alone"),
        ("listMoods: [Mood]", "listMoods: Mood", "the output of listMoods is [Mood] in the one and Mood in the other"),
        ("greet(input: GreetRequest)", "greet", "the input of greet is GreetRequest in the one and nothing"),
        ("@auth leave", "leave", "the directives of leave differ (@auth; none)"),
        ('roles: ["admin"]', 'roles: ["user"]', "the directives of shutdown differ"),
        ("times: Int", "times: Long", "GreetRequest.times is Int in the one and Long in the other"),
        ("times: Int", "times: Int!", "GreetRequest.times is Int in the one and Int! in the other"),
        ("times: Int", "count: Int", "the field GreetRequest.times is in the first alone"),
        ("name: String!  times: Int", "times: Int name: String!", "the fields of GreetRequest are in another order"),
        ("enum Mood { HAPPY SAD }", "enum Mood { SAD HAPPY }", "the values of Mood are in another order"),
        ("type Greeting {", "type Extra { a: Int }\ntype Greeting {", "the type Extra is in the second alone"),
    ],
)
def test_says_what_differs(old: str, new: str, said: str) -> None:
    found = difference(parse_idl(IDL), parse_idl(other(old, new)))
    assert found is not None
    assert said in found
