"""The OpenAPI document of operations: paths from what they are, shapes from the structs that are encoded and decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from insula.api.models import Error
from insula.api.operations import Operation
from insula.calls import MAX_NAME

_STATUSES = {
    400: "Not a package, or a wrong request",
    403: "The package asks for more than is granted",
    404: "No such source or service",
    408: "The package did not come in time",
    409: "Deployed already, or another change of it is under way",
    413: "Too large",
    415: "Neither JSON nor gzip",
    429: "No instance of it can be started now: the guests have all the memory that is theirs",
    503: "The server is starting or stopping",
    507: "No room",
}
_SUCCESSES = {200: "Successful Response", 204: "It is gone"}
#: What the parts of paths are.
_PARTS = {"service_id": ("full id of a service", "shop.Orders.v1")}


def document(
    operations: Sequence[Operation],
    shapes: Sequence[type[msgspec.Struct]],
    *,
    title: str,
    version: str,
    description: str,
) -> dict[str, Any]:
    """The document as JSON values. `shapes` are structs that bodies refer to by name."""
    paths: dict[str, dict[str, Any]] = {}
    read: list[type[msgspec.Struct]] = [Error, *shapes]
    structs = [*read, *(one.answer for one in operations if one.answer is not None)]
    for operation in operations:
        if operation.documented:
            paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    names = {struct.__name__ for struct in read}
    for name, schema in schemas.items():
        schema["description"] = " ".join(schema["description"].split())
        if name not in names:  # what is answered has every field, even one that has its default
            schema["required"] = list(schema["properties"])
            for field in schema["properties"].values():
                field.pop("default", None)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "description": description, "version": version},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {"tags": [operation.tag], "summary": operation.summary}
    if operation.description:
        told["description"] = operation.description
    words = re.findall(r"[a-z_]+", operation.path.removeprefix("/api/v1"))
    told["operationId"] = "_".join([operation.method.lower(), *(words or ["index"])])
    parameters = [_part(name) for name in re.findall(r"\{(\w+)\}", operation.path)]
    parameters += [_flag(name, meaning) for name, meaning in operation.flags.items()]
    if parameters:
        told["parameters"] = parameters
    if operation.body:
        content = {kind: {"schema": schema} for kind, schema in operation.body.items()}
        told["requestBody"] = {"required": True, "content": content}
    answer: dict[str, Any] = {"description": _SUCCESSES[operation.status]}
    if operation.answer is not None:
        answer["content"] = _json(operation.answer)
    elif operation.produces:
        answer["content"] = {kind: {} for kind in operation.produces}
    told["responses"] = {str(operation.status): answer}
    if operation.unwell:
        told["responses"]["503"] = {**answer, "description": "Service Unavailable"}
    for status in operation.errors:
        told["responses"][str(status)] = {"description": _STATUSES[status], "content": _json(Error)}
    if operation.public:
        told["security"] = []
    return told


def _json(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{struct.__name__}"}}}


def _part(name: str) -> dict[str, Any]:
    meaning, example = _PARTS[name]
    schema = {"type": "string", "maxLength": MAX_NAME, "examples": [example]}
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": schema}


def _flag(name: str, meaning: str) -> dict[str, Any]:
    schema = {"type": "boolean", "default": False}
    return {"name": name, "in": "query", "required": False, "description": meaning, "schema": schema}
