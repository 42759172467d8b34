"""The text of an IDL file -> the schema model, or an error with file, line, column and what to do about it."""

from __future__ import annotations

from insula.errors import PackageError
from insula.schema.check import Problem, problems, written_form
from insula.schema.model import Schema

MAX_IDL_BYTES = 1 << 20


def parse_idl(text: str, file: str = "service.okra.gql") -> Schema:
    """The checked schema of one IDL file, at most 1 MiB of it.

    `file` is what the errors call it. PackageError, always as `file:line:column: what is wrong`, with a hint.
    """
    if len(text) > MAX_IDL_BYTES or len(text.encode("utf-8", "replace")) > MAX_IDL_BYTES:
        raise PackageError(f"{file}:1:1: the file is larger than {MAX_IDL_BYTES >> 10} KiB", hint="split the service")

    from graphql import GraphQLError  # at the first use: a server that parses nothing does not load it

    from insula.schema.grammar import IdlParser

    try:
        parser = IdlParser(text.removeprefix("\ufeff"), file)
        schema = parser.read()
    except GraphQLError as error:
        place = error.locations[0] if error.locations else None
        where = f"{place.line}:{place.column}" if place else "1:1"
        message = error.message.removeprefix("Syntax Error: ")
        raise PackageError(
            f"{file}:{where}: {message}", hint="the syntax is GraphQL's for types, with service blocks and @okra"
        ) from None
    except RecursionError:
        raise PackageError(f"{file}:1:1: the file nests too deeply", hint="no list or value needs that") from None
    for problem in problems(schema):
        line, column = _locate(problem, parser.places)
        raise PackageError(f"{file}:{line}:{column}: {problem.message}", hint=problem.hint)
    return written_form(schema)


def _locate(problem: Problem, places: dict[tuple[str, ...], tuple[int, int]]) -> tuple[int, int]:
    service = next((place for key, place in places.items() if key[0] == "service"), (1, 1))
    return places.get(problem.key, places.get(("okra",), service) if problem.key == ("okra",) else service)
