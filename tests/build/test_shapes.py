from __future__ import annotations

import pytest

from insula.build.shapes import Kind, Names, Shape, Shapes
from insula.errors import PackageError
from insula.schema.model import Enum, Field, Method, Schema, Service, Type


def schema(*types: Type, enums: tuple[Enum, ...] = ()) -> Schema:
    return Schema(types=types, enums=enums, services=(Service("S", methods=(Method("m", "", "[Int]"),)),))


def test_each_spelling_of_a_type() -> None:
    shapes = Shapes(schema(Type("A"), enums=(Enum("E"),)))
    assert shapes.of("A") == Shape(Kind.MESSAGE, "A")
    assert shapes.of("E") == Shape(Kind.ENUM, "E")
    assert shapes.of("DateTime") == Shape(Kind.STRING)
    assert shapes.of("[Long]") == shapes.of("Long[]") == Shape(Kind.INT64, "", is_list=True)
    assert shapes.of("[A]").item == shapes.of("A")
    with pytest.raises(PackageError, match="Nope"):
        shapes.of("Nope")


def test_types_stand_behind_what_they_embed() -> None:
    shapes = Shapes(
        schema(
            Type("A", fields=(Field("b", "B", required=True), Field("a", "A"))),
            Type("B", fields=(Field("c", "C", required=True), Field("many", "[A]", required=True))),
            Type("C"),
        )
    )
    assert [type_.name for type_ in shapes.ordered()] == ["C", "B", "A"]


def test_a_type_that_always_holds_itself_is_refused() -> None:
    shapes = Shapes(
        schema(Type("A", fields=(Field("b", "B", required=True),)), Type("B", fields=(Field("a", "A", required=True),)))
    )
    with pytest.raises(PackageError, match="A -> B -> A"):
        shapes.ordered()


def test_lists_are_found_in_fields_and_results() -> None:
    shapes = Shapes(schema(Type("A", fields=(Field("s", "[String]"), Field("t", "[String]"), Field("u", "String")))))
    assert shapes.item_lists(Kind) == [Shape(Kind.STRING, "", True), Shape(Kind.INT32, "", True)]
    assert shapes.item_lists([Kind.ENUM]) == []


def test_names_do_not_clash() -> None:
    names = Names(["int"])
    assert [names.take("int"), names.take("a"), names.take("a"), names.take("a")] == ["int_", "a", "a_", "a__"]
