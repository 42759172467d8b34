"""The IDL's grammar: GraphQL's own parser, taught `@okra(...)` at the top, `service` blocks and their methods.

The two constructs are parsed in place, by the same lexer as the rest, so comments and strings cannot be mistaken for
them and every error has its true line and column. What comes out is the model as it was written, and the place of each
declaration; whether it makes sense is `check.py`'s to say.

A directive may stand before a method or after it. It belongs to the method

- above, where it begins on the line on which that method still is, or where the service ends after it;
- below, where the method's name follows on the same line;
- above, where it stands on lines of its own and is indented more than the method above; below, where it is not.

Importing this file imports graphql-core, so only `idl.parse_idl` does.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

from graphql.language import Token, ast
from graphql.language.parser import Parser
from graphql.language.source import Source
from graphql.language.token_kind import TokenKind

from insula.errors import PackageError
from insula.schema.check import Key, guess
from insula.schema.model import Directive, Enum, EnumValue, Field, Meta, Method, Schema, Service, Type
from insula.schema.names import is_scalar

Place = tuple[int, int]

#: Tokens and comments together; a schema of a thousand methods has a tenth of them.
MAX_TOKENS = 100_000
_INT64 = range(-(2**63), 2**63)

_INSTEAD = {
    "input": "write it as a type: a type may be an input, an output or both",
    "interface": "write the fields into each type",
    "union": "make a type with an optional field for each case",
    "schema": "the service block says what can be called",
    "extend": "write the fields into the type itself",
    "query": "methods are declared in a service block",
    "mutation": "methods are declared in a service block",
    "subscription": "declare a method that returns [Item], with @stream",
    "fragment": "this file declares types and a service; queries are sent by clients",
}


class IdlParser(Parser):
    """One parse of one text. `schema` is the model as written, `places` says where each declaration stands."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(Source(text, file), max_tokens=MAX_TOKENS)
        self._file = file
        self._text = text
        self._types: list[Type] = []
        self._enums: list[Enum] = []
        self._services: list[Service] = []
        self._meta: Meta | None = None
        self.places: dict[Key, Place] = {}

    def read(self) -> Schema:
        """The whole file."""
        self.expect_token(TokenKind.SOF)
        doc = ""
        while not self.peek(TokenKind.EOF):
            doc = self._declaration(self._doc() or doc)
        return Schema(tuple(self._types), tuple(self._enums), tuple(self._services), self._meta or Meta())

    def _declaration(self, doc: str) -> str:
        """One declaration of the file. Answers the documentation that is still waiting for what it is about."""
        token = self._lexer.token
        if token.kind is TokenKind.AT:
            node = self.parse_directive(True)
            if node.name.value != "okra":
                self._refuse(
                    token, f"@{node.name.value} stands alone", "only @okra does; others follow what they are about"
                )
            if self._meta is not None:
                self._refuse(token, "@okra is given twice", "say namespace and version once")
            self._meta = self._okra(node)
            return doc
        word = token.value if token.kind is TokenKind.NAME else None
        if word == "service":
            self._services.append(self._service(doc))
        elif word == "type":
            self._types.append(self._type(doc))
        elif word == "enum":
            self._enums.append(self._enum(doc))
        elif word == "scalar":
            name = self.parse_scalar_type_definition().name.value
            if not is_scalar(name):
                self._refuse(token, f"the scalar {name} is not known", "the scalars are fixed: use String")
        elif word == "directive":
            self.parse_directive_definition()  # for editors; what a directive means here is not declared
        elif word in _INSTEAD:
            self._refuse(token, f"{word} has no place in this file", _INSTEAD[word])
        else:
            shown = "the end of the file" if token.kind is TokenKind.EOF else repr(token.value or token.kind.value)
            self._refuse(
                token,
                f"{shown} where a declaration should begin",
                guess(word or "", ("service", "type", "enum"), "a file holds @okra(…), service, type and enum"),
            )
        return ""

    def _okra(self, node: ast.DirectiveNode) -> Meta:
        directive = self._directive(node)
        for name, value in directive.args.items():
            if name not in ("namespace", "version", "service"):
                hint = guess(name, ("namespace", "version", "service"), "it takes namespace and version")
                self._refuse(node, f"@okra has the unknown argument {name}", hint)
            if not isinstance(value, str) or not value:
                self._refuse(node, f"{name} of @okra is not a text", '@okra(namespace: "shop", version: "v1")')
        self.places[("okra",)] = _place(node)
        return Meta(**directive.args)

    def _service(self, doc: str) -> Service:
        start = self._lexer.token
        self.expect_keyword("service")
        name = self.parse_name().value
        own = Meta()
        while self.peek(TokenKind.AT):
            token = self._lexer.token
            node = self.parse_directive(True)
            if node.name.value != "okra":
                hint = "a directive at the service would be easy to miss at a method: write it at each method"
                self._refuse(token, f"@{node.name.value} stands at the service", hint)
            if own != Meta():
                self._refuse(token, "@okra is given twice", "say namespace and version once")
            own = self._okra(node)
        if own.service and own.service != name:
            self._refuse(start, f"@okra calls the service {own.service}", f"the block calls it {name}: say one name")
        self.places[("service", name)] = (start.line, start.column)
        self.expect_token(TokenKind.BRACE_L)
        methods: list[Method] = []
        waiting: list[ast.DirectiveNode] = []
        while not self.expect_optional_token(TokenKind.BRACE_R):
            method, waiting = self._method(waiting)
            methods.append(method)
        return Service(name, doc, own.namespace, own.version, tuple(methods))

    def _method(self, leading: list[ast.DirectiveNode]) -> tuple[Method, list[ast.DirectiveNode]]:
        """One method, and the directives after it that belong to the next."""
        doc = self._doc()
        while self.peek(TokenKind.AT):
            leading.append(self.parse_directive(True))
        doc = self._doc() or doc
        start = self._lexer.token
        name = self.parse_name().value
        input_type = self._input(name)
        output_type = ""
        if self.expect_optional_token(TokenKind.COLON):
            output_type, _ = self._type_name(self.parse_type_reference(), f"the output of {name}")
        trailing: list[ast.DirectiveNode] = []
        following: list[ast.DirectiveNode] = []
        while self.peek(TokenKind.AT) and not following:
            above, line = self._directive_line(start)
            (trailing if above else following).extend(line)
        self.places[("method", name)] = (start.line, start.column)
        directives = tuple(self._directive(node) for node in (*leading, *trailing))
        return Method(name, input_type, output_type, directives, doc), following

    def _input(self, method: str) -> str:
        if not self.expect_optional_token(TokenKind.PAREN_L):
            return ""
        input_type = ""
        count = 0
        while not self.expect_optional_token(TokenKind.PAREN_R):
            argument = self.parse_input_value_def()
            input_type, many = self._type_name(argument.type, f"the input of {method}")
            count += 1
            if count > 1 or many:
                what = "a list as its input" if many else "more than one input"
                self._refuse(argument, f"method {method} has {what}", "put the fields into one type, and take that")
            if argument.default_value is not None or argument.directives:
                self._refuse(argument, f"the input of {method} has a default or a directive", "write (input: Type)")
        return input_type

    def _directive_line(self, method: Token) -> tuple[bool, list[ast.DirectiveNode]]:
        """The directives up to the end of a line, and whether they belong to the method above."""
        first = self._lexer.token
        joined = first.line == self._lexer.last_token.line
        line = [self.parse_directive(True)]
        while self.peek(TokenKind.AT) and self._lexer.token.line == self._lexer.last_token.line:
            line.append(self.parse_directive(True))
        after = self._lexer.token
        if joined or after.kind is TokenKind.BRACE_R:
            return True, line
        if after.kind is not TokenKind.AT and after.line == self._lexer.last_token.line:
            return False, line
        own, above = self._indent(first), self._indent(method)
        if own.startswith(above):
            return len(own) > len(above), line
        if above.startswith(own):
            return False, line
        return self._refuse(
            first,
            "the directive may belong to the method above or to the one below: its line mixes tabs and spaces",
            "write it on the line of its method",
        )

    def _indent(self, token: Token) -> str:
        start = token.start - (token.column - 1)
        line = self._text[start : token.start]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def _type(self, doc: str) -> Type:
        node = self.parse_object_type_definition()
        name = node.name.value
        if node.interfaces:
            self._refuse(node, f"type {name} implements an interface", _INSTEAD["interface"])
        fields: list[Field] = []
        for field in node.fields or ():
            if field.arguments:
                self._refuse(field, f"field {field.name.value} of {name} has arguments", "only methods take an input")
            where = f"field {field.name.value} of {name}"
            type_name, _ = self._type_name(field.type, where)
            required = isinstance(field.type, ast.NonNullTypeNode)
            fields.append(
                Field(field.name.value, type_name, required, self._directives(field), _text(field.description))
            )
            self.places[("field", name, field.name.value)] = _place(field.name)
        self.places[("type", name)] = _place(node.name)
        return Type(name, doc, tuple(fields), self._directives(node))

    def _enum(self, doc: str) -> Enum:
        node = self.parse_enum_type_definition()
        name = node.name.value
        values: list[EnumValue] = []
        for value in node.values or ():
            values.append(EnumValue(value.name.value, _text(value.description), self._directives(value)))
            self.places[("value", name, value.name.value)] = _place(value.name)
        self.places[("enum", name)] = _place(node.name)
        return Enum(name, doc, tuple(values), self._directives(node))

    def parse_fields_definition(self) -> tuple[ast.FieldDefinitionNode, ...] | None:
        """`{}` is read, so that an empty type has an error of its own."""
        if not self.peek(TokenKind.BRACE_L):
            return None
        return self.any(TokenKind.BRACE_L, self.parse_field_definition, TokenKind.BRACE_R)

    def parse_enum_values_definition(self) -> tuple[ast.EnumValueDefinitionNode, ...] | None:
        """`{}` is read, so that an empty enum has an error of its own."""
        if not self.peek(TokenKind.BRACE_L):
            return None
        return self.any(TokenKind.BRACE_L, self.parse_enum_value_definition, TokenKind.BRACE_R)

    def _type_name(self, node: ast.TypeNode, where: str) -> tuple[str, bool]:
        inner = node.type if isinstance(node, ast.NonNullTypeNode) else node
        if isinstance(inner, ast.NamedTypeNode):
            return inner.name.value, False
        assert isinstance(inner, ast.ListTypeNode)
        item = inner.type.type if isinstance(inner.type, ast.NonNullTypeNode) else inner.type
        if not isinstance(item, ast.NamedTypeNode):
            self._refuse(node, f"{where} is a list of lists", "make a type with a list field, and a list of that type")
        return f"[{item.name.value}]", True

    def _doc(self) -> str:
        return _text(self.parse_description())

    def _directives(self, node: Any) -> tuple[Directive, ...]:
        return tuple(self._directive(directive) for directive in node.directives or ())

    def _directive(self, node: ast.DirectiveNode) -> Directive:
        args: dict[str, Any] = {}
        for argument in node.arguments or ():
            name = argument.name.value
            if name in args:
                self._refuse(argument, f"@{node.name.value} has the argument {name} twice", "write it once")
            args[name] = self._value(argument.value)
        return Directive(node.name.value, args)

    def _value(self, node: ast.ValueNode) -> Any:
        """A literal as JSON has it; an enum literal is its name."""
        match node:
            case ast.IntValueNode():
                number = int(node.value) if len(node.value) <= 20 else None
                if number not in _INT64:
                    self._refuse(node, "the number is past 64 bits", "write it as a string")
                return number
            case ast.FloatValueNode():
                real = float(node.value)
                if not math.isfinite(real):
                    self._refuse(node, "the number is too large", "write it as a string")
                return real
            case ast.NullValueNode():
                return None
            case ast.ListValueNode():
                return [self._value(item) for item in node.values]
            case ast.ObjectValueNode():
                return {field.name.value: self._value(field.value) for field in node.fields}
            case ast.StringValueNode() | ast.BooleanValueNode() | ast.EnumValueNode():
                return node.value
        return self._refuse(node, "a variable stands where a value should", "write the value")

    def _refuse(self, at: ast.Node | Token, message: str, hint: str) -> NoReturn:
        line, column = _place(at) if isinstance(at, ast.Node) else (at.line, at.column)
        raise PackageError(f"{self._file}:{line}:{column}: {message}", hint=hint)


def _place(node: ast.Node) -> Place:
    assert node.loc is not None
    return node.loc.start_token.line, node.loc.start_token.column


def _text(node: ast.StringValueNode | None) -> str:
    return "" if node is None else node.value
