"""Random schemas, the IDL text that says the same, and random values of their types."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

from insula.schema.check import problems
from insula.schema.json_walk import JsonRules
from insula.schema.model import Directive, Enum, EnumValue, Field, Meta, Method, Schema, Service, Type
from insula.schema.names import json_name, split_list, unspecified
from insula.schema.scalars import SCALARS, Kind

TYPE_NAMES = ["Order", "Line", "Tree", "Person", "class_", "Zoo"]
ENUM_NAMES = ["Mood", "OrderState", "Colour"]
VALUE_NAMES = ["HAPPY", "SAD", "ACTIVE", "Order", "low", "X_Y"]
FIELD_NAMES = ["name", "first_name", "class", "_x", "a_1", "URL", "items", "created_at", "Big_Name_", "o", "init__"]
METHOD_NAMES = ["greet", "getTree", "list_all", "Watch", "shutdown", "self"]

# Quotes, block-string ends, comment signs, backslashes and the two constructs, where they must mean nothing.
DOCS = st.one_of(
    st.just(""),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20).map(str.strip),
    st.sampled_from(['say """ twice', "# not a comment", "service X { f: Int }", '@okra(namespace: "no")', "a\\"]),
)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
literals: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b2", "c_c"]), inner, max_size=2)
    ),
    max_leaves=6,
)
DIRECTIVES = st.lists(
    st.builds(
        Directive,
        st.sampled_from(["deprecated", "unit", "okay", "x"]),
        st.dictionaries(st.sampled_from(["reason", "value", "n"]), literals, max_size=2),
    ),
    max_size=2,
).map(tuple)


@st.composite
def schemas(draw: st.DrawFn, plain: bool = False) -> Schema:
    """A schema that `check_schema` takes, in its written form; a plain one has no documentation and no directives."""
    docs = st.just("") if plain else DOCS
    directives: st.SearchStrategy[tuple[Directive, ...]] = st.just(()) if plain else DIRECTIVES
    type_names = draw(st.lists(st.sampled_from(TYPE_NAMES), min_size=1, max_size=4, unique=True))
    enum_names = draw(st.lists(st.sampled_from(ENUM_NAMES), max_size=3, unique=True))
    named = [*type_names, *enum_names, *SCALARS]

    def any_type() -> str:
        item = draw(st.sampled_from(named))
        return f"[{item}]" if draw(st.integers(0, 3)) == 0 else item

    types = tuple(
        Type(
            name,
            draw(docs),
            tuple(
                Field(field, any_type(), draw(st.booleans()), draw(directives), draw(docs))
                for field in draw(st.lists(st.sampled_from(FIELD_NAMES), min_size=1, max_size=5, unique_by=json_name))
            ),
            draw(directives),
        )
        for name in type_names
    )
    enums = tuple(
        Enum(
            name,
            draw(docs),
            tuple(
                EnumValue(value, draw(docs), draw(directives))
                for value in draw(st.lists(st.sampled_from(VALUE_NAMES), min_size=1, max_size=4, unique=True))
            ),
            draw(directives),
        )
        for name in enum_names
    )
    methods = tuple(
        Method(
            name,
            draw(st.sampled_from(["", *type_names])),
            draw(st.just("") | st.builds(any_type)) if draw(st.booleans()) else draw(st.sampled_from(type_names)),
            draw(directives),
            draw(docs),
        )
        for name in draw(st.lists(st.sampled_from(METHOD_NAMES), min_size=1, max_size=4, unique=True))
    )
    service = Service("Svc", draw(docs), "shop.eu", "v2", methods)
    schema = Schema(types, enums, (service,), Meta("shop.eu", "v2", "Svc"))
    while (problem := next(problems(schema), None)) is not None:
        schema = _without(schema, problem.key)
    return schema


def _without(schema: Schema, key: tuple[str, ...]) -> Schema:
    """The few random schemas with a ring of required fields are mended: nothing is required there any more."""
    assert key[0] == "type", key
    types = tuple(
        Type(
            kind.name,
            kind.doc,
            tuple(Field(field.name, field.type, False, field.directives, field.doc) for field in kind.fields),
            kind.directives,
        )
        if kind.name == key[1]
        else kind
        for kind in schema.types
    )
    return Schema(types, schema.enums, schema.services, schema.meta)


def idl_text(schema: Schema, *, inside: bool = False) -> str:
    """The IDL of a schema; `inside` puts `@okra` at the service in place of the top."""
    okra = f'@okra(namespace: "{schema.namespace}", version: "{schema.version}")'
    out = ["# service Wrong { f: Int }"]
    if not inside:
        out.append(okra)
    service = schema.service
    out.append(f"{_doc(service.doc)}service {service.name} {okra if inside else ''} {{")
    for method in service.methods:
        arguments = f"(input: {method.input_type})" if method.input_type else ""
        result = f": {method.output_type}" if method.output_type else ""
        out.append(f"{_doc(method.doc)}  {method.name}{arguments}{result}{_directives(method.directives)}")
    out.append("}")
    for kind in schema.types:
        out.append(f"{_doc(kind.doc)}type {kind.name}{_directives(kind.directives)} {{")
        out += [
            f"{_doc(field.doc)}  {field.name}: {field.type}{'!' * field.required}{_directives(field.directives)}"
            for field in kind.fields
        ]
        out.append("}")
    for enum in schema.enums:
        out.append(f"{_doc(enum.doc)}enum {enum.name}{_directives(enum.directives)} {{")
        out += [f"{_doc(value.doc)}  {value.name}{_directives(value.directives)}" for value in enum.values]
        out.append("}")
    return "\n".join(out) + "\n"


def _doc(doc: str) -> str:
    return f"{_string(doc)}\n" if doc else ""


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _directives(items: tuple[Directive, ...]) -> str:
    out = ""
    for item in items:
        arguments = ", ".join(f"{name}: {_literal(value)}" for name, value in item.args.items())
        out += f" @{item.name}({arguments})" if arguments else f" @{item.name}"
    return out


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_literal(item)}" for key, item in value.items()) + "}"
    return _string(value) if isinstance(value, str) else json.dumps(value)


_SCALAR_VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.STRING: texts,
    Kind.INT32: st.integers(-(2**31), 2**31 - 1),
    Kind.INT64: st.integers(-(2**63), 2**63 - 1).flatmap(lambda number: st.sampled_from([number, str(number)])),
    # numbers that 32 bits hold exactly, since binary and JSON have to agree on them
    Kind.FLOAT32: st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(["NaN", "-Infinity"]),
    Kind.FLOAT64: st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["NaN", "Infinity"]),
    Kind.BOOLEAN: st.booleans(),
    Kind.BYTES: st.sampled_from(["", "QQ==", "QQ", "--__", "++//", "AAECAwQ="]),
    Kind.TIMESTAMP: st.sampled_from(
        [
            "1970-01-01T00:00:00Z",
            "2026-05-29T08:35:13.700719321Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999999Z",
            "2024-02-29T23:59:59.5+05:30",
            "1969-12-31T23:59:59.1-11:00",
        ]
    ),
}


@st.composite
def values(draw: st.DrawFn, schema: Schema, type_name: str, depth: int = 0) -> Any:
    """A JSON value that the rules take for this type, in any of the spellings."""
    rules = JsonRules(schema)
    item, many = split_list(type_name)
    if many:
        return [draw(values(schema, item, depth + 1)) for _ in range(draw(st.integers(0, 2 if depth < 3 else 0)))]
    if item in rules.enums:
        names = [value.name for value in rules.enums[item].values]
        return draw(st.sampled_from([unspecified(item), *names, *range(len(names) + 1)]))
    if item in SCALARS:
        return draw(_SCALAR_VALUES[SCALARS[item].kind])
    out: dict[str, Any] = {}
    for field in rules.types[item].fields:
        inner, _ = split_list(field.type)
        if draw(st.booleans()) or (depth > 3 and inner in rules.types):
            continue
        name = draw(st.sampled_from([field.name, json_name(field.name)]))
        out[name] = draw(values(schema, field.type, depth + 1)) if draw(st.integers(0, 9)) else None
    if draw(st.booleans()):
        out["zz unknown"] = draw(st.sampled_from([None, 1e300, "x", {"a": [1, {}]}]))
    return out


def broken(value: Any) -> st.SearchStrategy[Any]:
    """The value with one thing in it replaced by something that may not fit."""
    odd: st.SearchStrategy[Any] = st.sampled_from(
        [None, True, 0, -1, 1.0, 1.5, 2**31, 2**63, "", "x", "1", [], {}, [None], "2026-02-30T00:00:00Z"]
    )
    if isinstance(value, dict) and value:
        return st.sampled_from(sorted(value)).flatmap(
            lambda key: broken(value[key]).map(lambda inner: {**value, key: inner})
        )
    if isinstance(value, list) and value:
        return broken(value[0]).map(lambda inner: [inner, *value[1:]])
    return odd


def same(one: Any, other: Any) -> bool:
    """Equality of two parsed JSON values, where 1 and 1.0 are one number and NaN is itself."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
