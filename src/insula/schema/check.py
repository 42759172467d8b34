"""What a schema must be beyond its syntax, whichever file it came from.

`problems` yields everything that is wrong, each with the key of the declaration it is about, so that the IDL parser can
point at a line. `check_schema` refuses with the first of them and answers the schema in its one written form: lists as
`[T]`, namespace, version and service filled in.

The rules keep a schema usable on every wire at once: a name that protobuf, proto3 JSON or GraphQL would refuse is
refused here. They also bound what a schema can cost: sizes, and the zero value that a `{}` from a client grows into. A
directive that decides who may call a method is refused where it is misspelt, misplaced or says what is not understood,
as the alternative is a method that anybody may call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from insula.calls import MAX_NAME
from insula.errors import PackageError
from insula.schema.model import Directive, Enum, Meta, Method, Schema, Type
from insula.schema.names import (
    MAX_IDENTIFIER,
    RESERVED_NAMESPACES,
    RESERVED_VALUES,
    is_identifier,
    is_scalar,
    json_name,
    pascal_value,
    response_message,
    split_list,
    unspecified,
)
from insula.schema.scalars import SCALARS
from insula.spelling import nearest

Key = tuple[str, ...]

MAX_TYPES = 2_000
MAX_FIELDS = 1_000
MAX_ALL_FIELDS = 20_000
MAX_VALUES = 10_000
MAX_METHODS = 1_000
#: Fields in the zero value of one type, with the required messages inside it.
MAX_ZERO = 1_000

#: Directives that change how a method is run or who may call it, with the arguments each may have.
METHOD_DIRECTIVES: dict[str, frozenset[str]] = {
    "auth": frozenset({"roles"}),
    "readonly": frozenset(),
    "stream": frozenset(),
}
_RESERVED_FOR_METHODS = frozenset({*METHOD_DIRECTIVES, "durable", "handles"})
_ROLE = re.compile(r"[\x21-\x7e]{1,128}")


class Problem(NamedTuple):
    """One thing that is wrong. `key` names a declaration: ("field", type, name), ("method", name) …"""

    key: Key
    message: str
    hint: str


def check_schema(schema: Schema, file: str = "service.description.json") -> Schema:
    """The schema in its written form; PackageError for the first thing that is wrong with it."""
    for problem in problems(schema):
        raise PackageError(f"{file}: {problem.message}", hint=problem.hint)
    return written_form(schema)


def written_form(schema: Schema) -> Schema:
    """A checked schema with every list as `[T]` and its namespace, version and service in both places."""

    def spell(name: str) -> str:
        item, many = split_list(name)
        return f"[{item}]" if many else item

    replace = msgspec.structs.replace
    service = schema.service
    return Schema(
        types=tuple(
            replace(kind, fields=tuple(replace(field, type=spell(field.type)) for field in kind.fields))
            for kind in schema.types
        ),
        enums=schema.enums,
        services=(
            replace(
                service,
                namespace=schema.namespace,
                version=schema.version,
                methods=tuple(replace(method, output_type=spell(method.output_type)) for method in service.methods),
            ),
        ),
        meta=Meta(schema.namespace, schema.version, service.name),
    )


def problems(schema: Schema) -> Iterator[Problem]:
    """Everything that is wrong with a schema, the most basic first; later rules run only where the earlier hold."""
    for rules in (_sizes, _service, _names, _references, _directives, _clashes, _zero_values):
        found = False
        for problem in rules(schema):
            found = True
            yield problem
        if found:
            return


def guess(name: str, known: Iterable[str], otherwise: str) -> str:
    """A hint that offers the nearest known name."""
    close = nearest(name, known)
    return f"did you mean {close}?" if close else otherwise


def _sizes(schema: Schema) -> Iterator[Problem]:
    counts = (
        ("types", len(schema.types), MAX_TYPES),
        ("enums", len(schema.enums), MAX_TYPES),
        ("fields", sum(len(kind.fields) for kind in schema.types), MAX_ALL_FIELDS),
        ("enum values", sum(len(enum.values) for enum in schema.enums), MAX_VALUES),
        ("methods", sum(len(service.methods) for service in schema.services), MAX_METHODS),
    )
    for what, count, most in counts:
        if count > most:
            yield Problem(("service",), f"the schema has {count} {what}", f"at most {most} are allowed")
    for kind in schema.types:
        if len(kind.fields) > MAX_FIELDS:
            yield Problem(
                ("type", kind.name), f"type {kind.name} has {len(kind.fields)} fields", f"at most {MAX_FIELDS}"
            )


def _service(schema: Schema) -> Iterator[Problem]:
    if not schema.services:
        yield Problem(("file",), "there is no service in the schema", "write one: service Greeter { … }")
        return
    if len(schema.services) > 1:
        second = schema.services[1].name
        yield Problem(
            ("service", second), f"{second} is a second service", "a package has one service: make two packages"
        )
        return
    service, meta = schema.service, schema.meta
    key: Key = ("service", service.name)
    example = 'for example @okra(namespace: "shop", version: "v1")'
    for what, one, other in (
        ("namespace", service.namespace, meta.namespace),
        ("version", service.version, meta.version),
        ("service", service.name, meta.service),
    ):
        if one and other and one != other:
            yield Problem(key, f"the {what} is given as {one!r} and as {other!r}", "say it once")
    if not schema.namespace:
        yield Problem(key, f"service {service.name} has no namespace", f"put it in @okra: {example}")
        return
    parts = schema.namespace.split(".")
    if not all(is_identifier(part) for part in parts):
        yield Problem(
            ("okra",), f"{schema.namespace[:80]!r} is not a namespace", f"identifiers joined by dots; {example}"
        )
    elif parts[0] in RESERVED_NAMESPACES or parts[:2] == ["google", "protobuf"]:
        yield Problem(("okra",), f"the namespace {parts[0]!r} is the server's own", f"choose another; {example}")
    if not is_identifier(schema.version):
        yield Problem(("okra",), f"{schema.version[:80]!r} is not a version", f"one identifier; {example}")
    if len(schema.namespace) + len(service.name) + len(schema.version) + 2 > MAX_NAME:
        yield Problem(("okra",), "the service's full id is too long", f"at most {MAX_NAME} characters in all")
    if not service.methods:
        yield Problem(key, f"service {service.name} has no methods", "write one: greet(input: GreetRequest): Greeting")


def _names(schema: Schema) -> Iterator[Problem]:
    rule = f"letters, digits and underscores, at most {MAX_IDENTIFIER}, not starting with a digit or two underscores"
    seen: set[str] = set()
    declared: list[tuple[Key, str]] = [
        (("service", schema.service.name), schema.service.name),
        *((("type", kind.name), kind.name) for kind in schema.types),
        *((("enum", enum.name), enum.name) for enum in schema.enums),
    ]
    for key, name in declared:
        if not is_identifier(name):
            yield Problem(key, f"{name[:80]!r} is not a name", rule)
        elif is_scalar(name):
            yield Problem(key, f"{name} is a built-in scalar", f"choose another name for the {key[0]}")
        elif name in seen:
            yield Problem(key, f"{name} is declared twice", "types, enums and the service share one set of names")
        seen.add(name)
    for kind in schema.types:
        yield from _fields(kind, rule)
    for enum in schema.enums:
        yield from _values(enum, rule)
    folded: dict[str, str] = {}
    for method in schema.service.methods:
        key = ("method", method.name)
        if not is_identifier(method.name):
            yield Problem(key, f"{method.name[:80]!r} is not a name for a method", rule)
        elif (other := folded.get(method.name.lower())) == method.name:
            yield Problem(key, f"method {method.name} is declared twice", "a method has one declaration")
        elif other is not None:
            yield Problem(
                key, f"methods {other} and {method.name} differ only in case", "generated code needs two names"
            )
        folded[method.name.lower()] = method.name


def _fields(kind: Type, rule: str) -> Iterator[Problem]:
    if not kind.fields:
        yield Problem(("type", kind.name), f"type {kind.name} has no fields", "leave the type out, or give it a field")
    spelt: dict[str, str] = {}
    for field in kind.fields:
        key = ("field", kind.name, field.name)
        if not is_identifier(field.name) or not json_name(field.name):
            yield Problem(key, f"{field.name[:80]!r} is not a name for a field of {kind.name}", rule)
            continue
        other = spelt.get(json_name(field.name))
        spelt[json_name(field.name)] = field.name
        if other == field.name:
            yield Problem(key, f"field {field.name} of {kind.name} is declared twice", "a field has one declaration")
        elif other is not None:
            yield Problem(
                key,
                f"fields {other} and {field.name} of {kind.name} are both {json_name(field.name)} in JSON",
                "rename one of them",
            )


def _values(enum: Enum, rule: str) -> Iterator[Problem]:
    zero = unspecified(enum.name)
    if not enum.values:
        yield Problem(("enum", enum.name), f"enum {enum.name} has no values", "give it a value")
    seen = {zero}
    generated = {pascal_value(enum.name, zero): zero}
    for value in enum.values:
        key = ("value", enum.name, value.name)
        if not is_identifier(value.name) or value.name in RESERVED_VALUES:
            yield Problem(key, f"{value.name[:80]!r} is not a name for a value of {enum.name}", rule)
        elif value.name == zero:
            yield Problem(key, f"{zero} is there already: it is value 0 of {enum.name}", "leave it out")
        elif value.name == enum.name:
            yield Problem(key, f"a value of {enum.name} has the name of its enum", "rename the value")
        elif value.name in seen:
            yield Problem(key, f"{value.name} is twice in {enum.name}", "a value has one name")
        elif (other := generated.get(pascal_value(enum.name, value.name))) is not None:
            yield Problem(
                key, f"{other} and {value.name} of {enum.name} are one name in generated code", "rename one of them"
            )
        seen.add(value.name)
        generated[pascal_value(enum.name, value.name)] = value.name


def _references(schema: Schema) -> Iterator[Problem]:
    messages = {kind.name for kind in schema.types}
    known = {*messages, *SCALARS, *(enum.name for enum in schema.enums)}

    def unknown(key: Key, spelling: str, where: str) -> Iterator[Problem]:
        item, _ = split_list(spelling)
        if "[" in item or "]" in item:
            yield Problem(key, f"{where} is a list of lists", "make a type with a list field, and a list of that type")
        elif item not in known:
            shown = item[:80] or "nothing"
            yield Problem(
                key,
                f"{where} has the unknown type {shown}",
                guess(item, known, "declare it, or use a built-in scalar"),
            )

    for kind in schema.types:
        for field in kind.fields:
            yield from unknown(("field", kind.name, field.name), field.type, f"field {field.name} of {kind.name}")
    for method in schema.service.methods:
        key = ("method", method.name)
        if method.input_type and method.input_type not in messages:
            item, many = split_list(method.input_type)
            if item in known:
                what = "a list" if many else "an enum" if item not in SCALARS else "a scalar"
                yield Problem(
                    key,
                    f"the input of {method.name} is {what}",
                    f"wrap it: type {_input_name(method)} {{ value: {item} }}",
                )
            else:
                yield Problem(
                    key,
                    f"the input of {method.name} has the unknown type {method.input_type[:80]}",
                    guess(item, messages, "declare it as a type"),
                )
        if method.output_type:
            yield from unknown(key, method.output_type, f"the output of {method.name}")


def _input_name(method: Method) -> str:
    return f"{method.name[:1].upper()}{method.name[1:]}Request"


def _directives(schema: Schema) -> Iterator[Problem]:
    for kind in schema.types:
        yield from _not_for_methods(("type", kind.name), kind.directives, f"type {kind.name}")
        for field in kind.fields:
            yield from _not_for_methods(
                ("field", kind.name, field.name), field.directives, f"field {field.name} of {kind.name}"
            )
    for enum in schema.enums:
        yield from _not_for_methods(("enum", enum.name), enum.directives, f"enum {enum.name}")
    for method in schema.service.methods:
        seen: set[str] = set()
        for directive in method.directives:
            yield from _method_directive(method, directive, seen)
            seen.add(directive.name)


def _not_for_methods(key: Key, directives: tuple[Directive, ...], where: str) -> Iterator[Problem]:
    for directive in directives:
        if directive.name.lower() in _RESERVED_FOR_METHODS or directive.name == "okra":
            yield Problem(key, f"@{directive.name} stands at {where}", "it belongs to a method and has no meaning here")


def _method_directive(method: Method, directive: Directive, seen: set[str]) -> Iterator[Problem]:
    name, key = directive.name, ("method", method.name)
    if name.lower() in ("role", "roles"):
        yield Problem(key, f"@{name} of method {method.name} is unknown", 'write @auth(roles: ["admin"])')
        return
    if name not in _RESERVED_FOR_METHODS:
        close = nearest(name, _RESERVED_FOR_METHODS, least=0.74)
        if close:
            yield Problem(key, f"@{name[:80]} of method {method.name} is unknown", f"did you mean @{close}?")
        return
    if name in METHOD_DIRECTIVES:
        if name in seen:
            yield Problem(key, f"method {method.name} has @{name} twice", "write it once")
        allowed = METHOD_DIRECTIVES[name]
        for argument in directive.args:
            if argument not in allowed:
                takes = f"it takes {', '.join(sorted(allowed))} only" if allowed else "it takes no arguments"
                yield Problem(key, f"@{name} of method {method.name} has the unknown argument {argument[:80]}", takes)
    if name == "auth" and "roles" in directive.args:
        roles = directive.args["roles"]
        if not isinstance(roles, list | tuple) or not roles or not all(_is_role(role) for role in roles):
            yield Problem(
                key,
                f"the roles of @auth at method {method.name} are not a list of names",
                'write @auth(roles: ["admin"]), or @auth for anyone who is signed in',
            )
    if name == "stream" and not split_list(method.output_type)[1]:
        yield Problem(key, f"method {method.name} has @stream and returns no list", "return [Item]: each item is sent")


def _is_role(role: object) -> bool:
    return isinstance(role, str) and _ROLE.fullmatch(role) is not None


def _clashes(schema: Schema) -> Iterator[Problem]:
    names = {kind.name for kind in schema.types} | {enum.name for enum in schema.enums} | {schema.service.name}
    for method in schema.service.methods:
        message = response_message(method.name)
        if message in names and schema.wrapped(method) is not None:
            yield Problem(
                ("method", method.name),
                f"{message} is declared, and method {method.name}, which returns {method.output_type},"
                " needs that name for the message of its answer",
                f"rename {message}, or return it",
            )


def _zero_values(schema: Schema) -> Iterator[Problem]:
    """Refuses a type whose zero value has no end or no measure: a required message is made where it is left out."""
    inside = {
        kind.name: [field.type for field in kind.fields if field.required and not split_list(field.type)[1]]
        for kind in schema.types
    }
    own = {kind.name: len(kind.fields) for kind in schema.types}
    sizes: dict[str, int] = {}
    for start in inside:
        open_types: dict[str, None] = {}
        todo = [start]
        while todo:
            name = todo[-1]
            if name in sizes:
                todo.pop()
                continue
            members = [member for member in inside[name] if member in inside]
            waiting = [member for member in members if member not in sizes]
            if not waiting:
                open_types.pop(name, None)
                sizes[name] = own[name] + sum(sizes[member] for member in members)
                if sizes[name] > MAX_ZERO:
                    yield Problem(
                        ("type", name),
                        f"type {name} with the required types inside it has more than {MAX_ZERO} fields",
                        "make some of the fields optional (no !): a required one is made even where it is left out",
                    )
                    return
                continue
            open_types[name] = None
            looping = next((member for member in waiting if member in open_types), None)
            if looping is not None:
                yield Problem(
                    ("type", looping),
                    f"type {looping} contains itself by required fields, so no value of it has an end",
                    "make a field on the way optional (no !) or a list",
                )
                return
            todo.append(waiting[0])
